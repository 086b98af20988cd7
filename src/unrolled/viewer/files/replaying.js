"use strict";
globalThis.unrolled ??= {};
// Runs the network again: the gradient of one answer to the states before it, and what changes of units do to the answers.
unrolled.replaying = (views, finding) => {
  const { spoken, figure, count, visible, make, options, look } = unrolled.words;
  const element = (id) => views.element(id);
  const runGradient = unrolled.running(element("gradient-running"));
  const runEffect = unrolled.running(element("effect-running"));

  // An output's name, of which characters may not be seen by themselves.
  const named = (name) => (Array.from(name).length === 1 ? visible(name) : name);

  // Curves of one value a step.
  function draw(name, start, curves, { logarithmic = false } = {}) {
    const data = { xs: [], ys: [], colour: [], dash: [], width: [] };
    let [bottom, top] = [Infinity, -Infinity];
    for (const { values, look: [colour, dash] } of curves) {
      data.xs.push(Float64Array.from(values, (_, i) => start + i + 0.5));
      data.ys.push(Float64Array.from(values, (v) => (logarithmic && v <= 0 ? NaN : v)));
      data.colour.push(colour);
      data.dash.push(dash);
      data.width.push(2);
      for (const v of values) if (Number.isFinite(v) && !(logarithmic && v <= 0)) [bottom, top] = [Math.min(bottom, v), Math.max(top, v)];
    }
    if (!(top >= bottom)) [bottom, top] = logarithmic ? [0.1, 1] : [0, 1];
    if (logarithmic) {
      views.model(`${name}-rows`).setv({ start: bottom / 1.5, end: top * 1.5 });
      const [low, high] = [Math.ceil(Math.log10(bottom / 1.5)), Math.floor(Math.log10(top * 1.5))];
      const by = Math.max(1, Math.ceil((high - low) / 4));
      views.model(`${name}-ticks`).ticks = Array.from({ length: Math.max(0, Math.floor((high - low) / by) + 1) }, (_, i) => 10 ** (high - i * by));
    } else {
      const pad = (top - bottom || 1) * 0.06;
      views.model(`${name}-rows`).setv({ start: bottom - pad, end: top + pad });
    }
    views.model(`${name}-curves`).data = data;
    views.model(name).visible = true;
  }

  // Brings steps into view where they are not, with some room.
  function reveal(start, stop) {
    const view = views.steps;
    if (start < view.start || stop > view.end || stop - start < (view.end - view.start) / 6) {
      const room = Math.max(8, (stop - start) * 0.08);
      views.look(start - room, stop + room);
    }
  }

  async function gradient() {
    const step = views.now.step;
    if (step === null) return;
    const output = element("gradient-output").value;
    const asked = { sequence: views.now.sequence, step, back: Math.round(Number(element("gradient-back").value)), ...(output === "" ? {} : { output: Number(output) }) };
    const found = await runGradient("running backwards", (options) => views.store.gradient(asked, options));
    if (found === null) return;
    const states = Object.keys(found.curves);
    const several = new Set(states.map((name) => name.slice(0, name.lastIndexOf(".")))).size > 1;
    const title = (name) => (several ? name : spoken(name.slice(name.lastIndexOf(".") + 1)));
    const curves = states.map((name, index) => ({ title: title(name), values: found.curves[name], look: several ? look(null, index) : look(name.slice(name.lastIndexOf(".") + 1), index) }));
    for (const [name, values] of Object.entries(found.direct)) curves.push({ title: `${title(name)}, its own path alone`, values, look: ["#8b95a1", [2, 3]] });
    draw("gradient", found.start, curves, { logarithmic: true });
    // The right answer may be a character that cannot be seen.
    found.output = Array.from(found.output, (character) => (character === " " ? character : visible(character))).join("").replace(/ $/, "\u00b7");
    views.model("gradient-title").text.text = `gradient of ${found.output} at step ${count(found.step)}: norm by step`;
    views.painter.legend("gradient-legend", "gradient to:", curves);
    const zero = curves.slice(0, states.length).filter(({ values }) => values.every((v) => v === 0)).map(({ title: t }) => t);
    element("gradient-said").textContent =
      `${found.output} at step ${count(found.step)} is ${figure(found.value, 4)}. ` +
      curves.slice(0, states.length).map(({ title: t, values }) => `To ${t}: ${figure(at(values, 1), 4)} one step back, ${figure(at(values, 20), 4)} twenty, ${figure(values[0], 4)} at step ${count(found.start)}.`).join(" ") +
      (zero.length > 0 ? ` It is exactly zero everywhere for ${zero.join(", ")}.` : "") +
      " A logarithmic axis leaves out zeros.";
    reveal(found.start, found.stop);

    function at(values, back) {
      return values[found.step - back - found.start];
    }
  }

  function changes() {
    const kind = element("change-kind").value;
    const span = views.now.span ?? (views.now.step === null ? null : { start: views.now.step, stop: views.now.step + 1 });
    if (span === null) throw new Error("choose a span, or mark a step: nothing says at which steps to change");
    const chosen = element("change-units").value === "found" ? finding.units() : [{ name: views.named(views.now.state), number: views.now.unit }];
    if (chosen.length === 0) throw new Error("no unit is ticked in the list of units that were found");
    const byName = new Map();
    for (const { name, number } of chosen) byName.set(name, [...(byName.get(name) ?? []), number]);
    const more = kind === "clamp" ? { value: Number(element("change-value").value) } : kind === "patch" ? { source_sequence: Math.round(Number(element("patch-sequence").value)), source_start: Math.round(Number(element("patch-step").value)) } : {};
    return [...byName].map(([name, units]) => ({ kind, name, units, ...span, ...more }));
  }

  async function effect() {
    let asked;
    try {
      asked = { sequence: views.now.sequence, changes: changes(), after: Math.round(Number(element("change-after").value)) };
    } catch (error) {
      element("effect-running").hidden = false;
      element("effect-running").replaceChildren(make("span", { className: "wrong", role: "alert" }, error.message));
      return;
    }
    const { step } = views.now;
    const [first, last] = [asked.changes[0].start, asked.changes[0].stop + asked.after];
    if (step !== null && step >= first && step < last) asked.at = step;
    const found = await runEffect("running with the change", (options) => views.store.effect(asked, options));
    if (found === null) return;
    const curves = [
      { title: `${found.measure}, as it was`, values: found.original, look: ["#8b95a1", []] },
      { title: `${found.measure}, changed`, values: found.changed, look: ["#d97706", []] },
      { title: views.about.loss === "values" ? "difference of the answers" : "divergence of the answers, bits", values: found.divergence, look: ["#2f7fc0", [5, 3]] },
    ];
    draw("effect", found.start, curves);
    views.model("effect-title").text.text = `answers with ${asked.changes.map((c) => `${spoken(c.name.slice(c.name.lastIndexOf(".") + 1))} ${c.units.join(", ")}`).join("; ")} changed`;
    views.painter.legend("effect-legend", "answers:", curves);
    const finite = Array.from(found.divergence).filter(Number.isFinite);
    const mean = (values) => {
      const there = Array.from(values).filter(Number.isFinite);
      return there.reduce((sum, v) => sum + v, 0) / there.length;
    };
    element("effect-said").textContent = `Over ${count(found.stop - found.start)} steps ${found.measure} goes from ${figure(mean(found.original), 3)} to ${figure(mean(found.changed), 3)} in the mean; the answers differ by at most ${figure(Math.max(...finite), 3)}. Answers at step ${count(found.top.step)}${found.top.target === null ? "" : ` (right: ${named(found.top.target)})`}:`;
    element("answers").hidden = false;
    const classes = views.about.loss !== "values";
    element("answers").tBodies[0].replaceChildren(...found.top.names.map((name, i) => {
      const value = (v) => (classes ? `${figure(100 * v, 2)} %` : figure(v, 4));
      const bar = (v) => {
        const part = make("span", { className: "bar" });
        part.style.setProperty("--share", classes ? `${100 * v}%` : "0%");
        return part;
      };
      return make("tr", {}, make("th", { scope: "row" }, make("code", {}, named(name))), make("td", {}, bar(found.top.before[i]), value(found.top.before[i])), make("td", {}, bar(found.top.after[i]), value(found.top.after[i])));
    }));
    if (found.stop - found.start > 1) reveal(found.start, found.stop);
  }

  function showKind() {
    const kind = element("change-kind").value;
    element("change-value").closest("label").hidden = kind !== "clamp";
    element("patch-fields").hidden = kind !== "patch";
  }

  function steps() {
    const { step, span } = views.now;
    element("run-gradient").disabled = step === null;
    element("gradient-step").textContent = step === null ? "mark a step first: click a plot or a character" : `at step ${count(step)}`;
    element("change-steps").textContent = span !== null ? `at steps ${count(span.start)} to ${count(span.stop - 1)}` : step !== null ? `at step ${count(step)}` : "choose a span or mark a step first";
    element("run-effect").disabled = step === null && span === null;
  }

  function recording() {
    const { about } = views;
    element("replay-tools").hidden = !about.model;
    element("replay-none").hidden = about.model;
    const target = about.loss === "values" ? "the squared error" : "the right answer";
    options(element("gradient-output"), [["", target], ...about.outputs.map((name, index) => [String(index), named(name)])], "");
    for (const id of ["gradient-legend", "effect-legend"]) element(id).replaceChildren();
    for (const id of ["gradient-said", "effect-said"]) element(id).textContent = "";
    element("answers").hidden = true;
    showKind();
    steps();
  }

  element("run-gradient").addEventListener("click", gradient);
  element("run-effect").addEventListener("click", effect);
  element("change-kind").addEventListener("change", showKind);
  views.on("step", steps);
  views.on("span", steps);
  views.on("recording", recording);
  return { keys: [[["g"], "g", "gradient of the answer at the marked step", () => gradient()], [["e"], "e", "effect of the change that is set up", () => effect()]] };
};
