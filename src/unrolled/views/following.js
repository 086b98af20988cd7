"use strict";
globalThis.unrolled ??= {};
// What the chosen unit remembers and follows, over a stretch of the recording.
unrolled.following = (views) => {
  const { spoken, figure, count, make } = unrolled.words;
  async function describe() {
    const { sequence, state, unit } = views.now;
    let found;
    views.element("memory").setAttribute("aria-busy", "true");
    if (views.element("memory").textContent === "") views.element("memory").textContent = "measuring\u2026";
    try {
      found = await views.store.follows({ sequence, name: views.named(state) });
    } catch (error) {
      views.element("memory").textContent = error.message;
      return;
    }
    if (state !== views.now.state || unit !== views.now.unit) return;
    views.element("memory").setAttribute("aria-busy", "false");
    const time = found.memory[unit];
    const its = `Its ${spoken(state)}`;
    views.element("memory").textContent =
      time === null || Number.isNaN(time) ? `${its} does not vary here.`
      : time >= found.steps ? `${its} stays correlated with itself over all ${count(found.steps)} steps looked at.`
      : `${its} stays correlated with itself (above 1/e) for ${figure(time, 1)} steps.`;
    const lines = Object.entries(found.labels).map(([label, follows]) => {
      const best = make("button", { type: "button", title: `choose the unit that follows ${spoken(label)} best`, "aria-current": String(follows.best === unit) }, String(follows.best));
      best.addEventListener("click", () => views.pickUnit(follows.best));
      const cells = [spoken(label), figure(follows.correlation[unit]), follows.auc === null ? "\u2013" : figure(follows.auc[unit])];
      return make("tr", {}, ...cells.map((text) => make("td", {}, text)), make("td", {}, best));
    });
    views.element("follow").hidden = lines.length === 0;
    views.element("follow-note").textContent = lines.length === 0 ? "" :
      `Over ${count(found.steps)} steps. AUC: how often the unit is higher where the label is true than where it is not; 0.5 is chance, and 0 or 1 is a perfect guide. ` +
      "The best unit is the one farthest from chance, or of largest correlation, in this state: the best of many, on this one stretch.";
    views.element("follow").tBodies[0].replaceChildren(...lines);
  }
  views.on("unit", describe);
  views.on("sequence", describe);
};
