"use strict";
// Embeds every plot, and lets the legends under them hide and show curves.
const embedded = (() => {
  const items = JSON.parse(document.getElementById("models").textContent);
  const ready = {};
  for (const [name, item] of Object.entries(items)) {
    const place = document.getElementById(name);
    ready[name] = Bokeh.embed.embed_item(item, place).then((views) => views.roots[0].model.document);
  }
  for (const entry of document.querySelectorAll(".legend button")) {
    entry.addEventListener("click", async () => {
      const { panel, curve } = entry.dataset;
      const shown = entry.getAttribute("aria-pressed") !== "true";
      entry.setAttribute("aria-pressed", String(shown));
      const drawing = await ready[panel];
      const figure = drawing.get_model_by_name(panel);
      for (const renderer of figure.renderers) {
        if (renderer.name?.startsWith(`${panel}-${curve}-`)) renderer.visible = shown;
      }
    });
  }
  return ready;
})();
