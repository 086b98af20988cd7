"use strict";
globalThis.unrolled ??= {};
// The plots by keyboard. Each key is told on the page, from this same list.
unrolled.keys = (views, more = []) => {
  const { make } = unrolled.words;
  const step = (by) => views.goTo((views.now.step ?? Math.round((views.steps.start + views.steps.end) / 2)) + by);
  const place = (by) => {
    const at = Math.min(Math.max(views.places.get(views.now.unit) + by, 0), views.layer.units - 1);
    views.pickUnit(views.order[at]);
  };
  const page = (by) => {
    const { start, end } = views.steps;
    views.look(start + by * (end - start), end + by * (end - start));
  };
  const edge = (which) => {
    if (views.now.step === null) return;
    const at = views.now.step + (which === "stop" ? 1 : 0);
    const other = views.now.span ?? { start: views.now.step, stop: views.now.step + 1 };
    const span = { ...other, [which]: at };
    views.pickSpan(span.stop > span.start ? span : { start: views.now.step, stop: views.now.step + 1 });
  };
  const keys = [
    [["ArrowLeft", "ArrowRight"], "\u2190 \u2192", "mark the step before, after (with Shift: ten)", (event) => step((event.key === "ArrowLeft" ? -1 : 1) * (event.shiftKey ? 10 : 1))],
    [["ArrowUp", "ArrowDown"], "\u2191 \u2193", "choose the unit above, below", (event) => place(event.key === "ArrowUp" ? -1 : 1)],
    [["PageUp", "PageDown"], "PgUp PgDn", "move by a screen", (event) => page(event.key === "PageUp" ? -1 : 1)],
    [["Home", "End"], "Home End", "first, last step", (event) => views.goTo(event.key === "Home" ? 0 : views.length - 1)],
    [["+", "=", "-"], "+ \u2212", "zoom in, out", (event) => views.zoom(event.key === "-" ? 2 : 0.5)],
    [["0"], "0", "the whole recording", () => views.look(0, views.length)],
    [["c"], "c", "close up, to read characters", () => views.closeUp()],
    [["[", "]"], "[ ]", "the chosen span begins, ends at the marked step", (event) => edge(event.key === "[" ? "start" : "stop")],
    [["Escape"], "Esc", "no span, no marked step", () => {
      views.pickSpan(null);
      views.mark(null);
    }],
    ...more,
  ];
  views.element("maps").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const found = keys.find(([names]) => names.includes(event.key));
    if (found === undefined) return;
    event.preventDefault();
    found[3](event);
  });
  views.element("keys").replaceChildren(...keys.flatMap(([, shown, what]) => [make("dt", {}, ...shown.split(" ").flatMap((key) => [make("kbd", {}, key), " "])), make("dd", {}, what)]));
};
