"use strict";
globalThis.unrolled ??= {};
// A plot of the server's as it is embedded: title, the plot, its legend.
unrolled.plotted = (item) => {
  const { make, line: drawn } = unrolled.words;
  const place = make("div", { className: "plot" });
  const entries = item.legend.map((curve) => {
    const button = make("button", { type: "button", title: "hide or show this curve", "aria-pressed": "true" });
    button.append(drawn([curve.colour, curve.dash], curve.width, curve.alpha));
    button.append(curve.label);
    return [button, curve];
  });
  const lines = item.lines.map((line) => {
    const entry = make("li", { className: "line" });
    entry.append(drawn(["currentColor", line.dash], 1.2));
    entry.append(`${line.label}: ${line.value}`);
    return entry;
  });
  const notes = [];
  if (item.left_out > 0) notes.push(`${item.left_out} ${item.left_out === 1 ? "point" : "points"} at or below zero cannot be shown on a logarithmic axis.`);
  if (item.bottomless) notes.push("Where a band falls to the bottom, the interval includes zero.");
  const figure = make("figure", {}, make("figcaption", {}, item.title, make("span", { className: "small" }, item.y_label ? `Upwards: ${item.y_label}` : "")), place, make("ul", { className: "legend" }, ...entries.map(([button]) => make("li", {}, button)), ...lines), ...notes.map((note) => make("p", { className: "small" }, note)));
  figure.embed = async () => {
    const embedded = await Bokeh.embed.embed_item(item, place);
    const drawing = embedded.roots[0].model.document;
    for (const [button, curve] of entries) {
      button.addEventListener("click", () => {
        const shown = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(shown));
        for (const renderer of drawing.get_model_by_name(item.name).renderers) if (renderer.name?.startsWith(`${item.name}-${curve.index}-`)) renderer.visible = shown;
      });
    }
    const repaint = () => embedded.roots[0].model.change.emit();
    unrolled.scheme.on(repaint);
  };
  return figure;
};

// Instruments on demand: each says what it does and on what; a click runs it on this recording's network.
unrolled.measuring = (views) => {
  const { make, figure } = unrolled.words;
  const place = views.element("instruments");
  async function list() {
    let instruments;
    try {
      instruments = await views.store.instruments({});
    } catch (error) {
      place.replaceChildren(make("p", { className: "wrong" }, error.message));
      return;
    }
    const entries = instruments.map((instrument) => {
      const running = make("div", { className: "running", hidden: true });
      const found = make("div", { className: "found" });
      const run = unrolled.running(running);
      const button = make("button", { type: "button", className: "button", disabled: instrument.needs !== null }, "measure");
      button.setAttribute("aria-label", `measure: ${instrument.title}`);
      button.addEventListener("click", async () => {
        const asked = { name: instrument.name, sequence: views.now.sequence, ...(views.now.step === null ? {} : { step: views.now.step }) };
        const label = views.element("check-name").value;
        if (label && ["probe", "carries", "gate_openness"].includes(instrument.name)) asked.label = label;
        const measured = await run(instrument.title, (options) => views.store.measure(asked, options));
        if (measured === null) return;
        const figures = measured.figures.map((item) => unrolled.plotted(item));
        found.replaceChildren(make("p", {}, measured.summary), make("div", { className: "panels" }, ...figures), make("p", { className: "small" }, `Took ${figure(measured.seconds, 1)} s.`));
        for (const one of figures) await one.embed();
      });
      return make("article", { className: "instrument" }, make("div", { className: "head" }, make("h4", {}, instrument.title), button), make("p", { className: "small" }, instrument.needs === null ? instrument.about : `${instrument.about} Not here: ${instrument.needs}.`), running, found);
    });
    place.replaceChildren(...entries);
  }
  let stale = true;
  views.on("recording", () => {
    stale = true;
    place.replaceChildren();
  });
  // What can be measured is asked for when someone looks.
  return { open: () => {
    if (!stale) return;
    stale = false;
    list();
  } };
};
