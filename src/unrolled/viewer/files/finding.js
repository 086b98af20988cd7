"use strict";
globalThis.unrolled ??= {};
// The loop: a span, the units that are on in it and off around it, spans like it elsewhere, and how labels agree.
unrolled.finding = (views) => {
  const { spoken, figure, count, visible, characters, make, options } = unrolled.words;
  const element = (id) => views.element(id);
  const run = unrolled.running(element("find-running"));
  let units = []; // those that were found, each with `chosen`
  let current = null; // what the matches belong to: {place, threshold, around}
  let matches = [];
  let at = -1;

  const percent = (value) => (Number.isNaN(value) ? "none" : `${figure(100 * value, 1)} %`);
  const chosen = () => units.filter((unit) => unit.chosen).map(({ name, number, sign }) => ({ name, number, sign }));
  const names = () => [...element("find-states").querySelectorAll("input:checked")].map((box) => box.value);
  const place = () => ({ sequence: views.now.sequence, ...views.now.span });
  const around = () => Math.max(0, Math.round(Number(element("find-around").value)));
  const threshold = () => Number(element("find-threshold").value);
  const written = (unit) => `${spoken(unit.state)} ${unit.number}${unit.sign < 0 ? ", low" : ""}`;
  // On is sign * value >= threshold.
  const where = (unit, at) => (unit.sign < 0 ? `\u2264 ${figure(-at, 3)}` : `\u2265 ${figure(at, 3)}`);

  function showSpan() {
    const { span } = views.now;
    for (const id of ["find-units", "suggest"]) element(id).disabled = span === null;
    element("span-start").value = span?.start ?? "";
    element("span-stop").value = span === null ? "" : span.stop - 1;
    element("span-text").textContent = span === null ? "no span is chosen yet: drag over the input, or select text" : `${count(span.stop - span.start)} ${span.stop - span.start === 1 ? "step" : "steps"}`;
  }

  async function attempt(work) {
    try {
      await work();
    } catch (error) {
      if (error.status === 409) return;
      element("find-running").hidden = false;
      element("find-running").replaceChildren(make("span", { className: "wrong", role: "alert" }, error.message));
    }
  }

  const suggest = () =>
    attempt(async () => {
      const found = await views.store.suggested({ ...place(), names: names(), around: around() });
      element("find-threshold").value = found.threshold;
    });

  const findUnits = () =>
    attempt(async () => {
      if (views.now.span === null) return;
      if (element("find-threshold").value === "") await suggest();
      current = { ...place(), threshold: threshold(), around: around() };
      const found = await views.store.units_on({ ...current, names: names() });
      units = found.units.map((unit, index) => ({ ...unit, chosen: index < 5 }));
      element("find-running").hidden = true;
      element("units-count").textContent =
        found.count === 0
          ? "No unit is on in the span and off around it. Try another threshold, fewer steps around, or more states."
          : `${count(found.count)} ${found.count === 1 ? "unit is" : "units are"} on in the span and off the ${current.around} steps around it${found.count > units.length ? `; the first ${units.length} are listed` : ""}.`;
      showUnits();
      showMatches(null);
      showAgreement(null);
    });

  function showUnits() {
    const rows = units.map((unit) => {
      const box = make("input", { type: "checkbox", checked: unit.chosen });
      box.setAttribute("aria-label", `use ${written(unit)}`);
      box.addEventListener("change", () => {
        unit.chosen = box.checked;
        ready();
      });
      const look = make("button", { type: "button", className: "button" }, written(unit));
      look.addEventListener("click", () => show(unit));
      const cells = unit.on === undefined ? ["\u2013", "\u2013", "\u2013"] : [percent(unit.on), percent(unit.around), figure(unit.strength)];
      return make("tr", {}, make("td", {}, box), make("td", {}, look), ...cells.map((text) => make("td", {}, text)));
    });
    element("units-found").tBodies[0].replaceChildren(...rows);
    element("units-found").hidden = rows.length === 0;
    ready();
  }

  function show(unit) {
    const layer = views.about.layers.findIndex((l) => l.states.some((s) => s.name === unit.name));
    if (layer !== views.now.layer) views.pickLayer(layer).then(() => views.pickUnit(unit.number, unit.state));
    else views.pickUnit(unit.number, unit.state);
  }

  function ready() {
    const none = chosen().length === 0;
    element("find-matches").disabled = none || current === null || current.start === undefined;
    element("check-label").disabled = none || views.about.labels.length === 0;
  }

  const findMatches = () =>
    attempt(async () => {
      const asked = { ...current, units: chosen() };
      const [own, found] = await Promise.all([views.store.selected(asked), run("looking for spans like it", (options) => views.store.matches(asked, options))]);
      if (found === null) return;
      showMatches(found.matches, own);
    });

  // A line of text, aligned at the first step of the span; darker under a character where more of the units are on.
  function context(match) {
    if (match.text === null) return make("span", {}, `${count(match.start)} to ${count(match.stop - 1)}`);
    const line = make("code", { className: "context" });
    line.append("\u2007".repeat(Math.max(0, match.from + 24 - match.start)));
    characters(match.text).forEach((character, index) => {
      const step = match.from + index;
      const part = make("span", {}, visible(character));
      if (step >= match.start && step < match.stop) part.classList.add("in");
      part.style.setProperty("--share", `${Math.round(100 * match.share[index])}%`);
      line.append(part);
    });
    return line;
  }

  // Those that hold still long enough to say something of a span, and are true somewhere in it.
  const labels = (match) =>
    views.about.labels
      .filter((label) => label.band && label.name in match.labels && match.labels[label.name] !== 0)
      .map((label) => `${spoken(label.title)}${label.binary && match.labels[label.name] === 1 ? "" : ` ${typeof match.labels[label.name] === "string" ? match.labels[label.name] : figure(match.labels[label.name])}`}`)
      .join(", ");

  function showMatches(found, own = null) {
    matches = found ?? [];
    at = -1;
    element("matches-count").textContent = found === null ? "" : found.length === 0 ? "No other span has these units on and is off around." : `${found.length} spans, the most alike first. Under each character: the share of the chosen units that are on.`;
    const row = (match, first, score) => {
      const go = make("button", { type: "button", className: "button" }, first);
      go.addEventListener("click", () => goTo(match));
      return make("tr", {}, make("td", {}, go), make("td", {}, score), make("td", { className: "line" }, context(match)), make("td", { className: "small" }, labels(match)));
    };
    const rows = matches.map((match, index) => row(match, `${index + 1}`, figure(match.score)));
    if (own !== null) rows.unshift(row(own, "chosen", ""));
    element("matches").tBodies[0].replaceChildren(...rows);
    element("matches").hidden = rows.length === 0;
  }

  async function goTo(match) {
    if (match.sequence !== views.now.sequence) await views.pickSequence(match.sequence);
    views.goTo(match.start);
    const { start, end } = views.steps;
    if (end - start > 2000) views.closeUp();
    views.model("track-span").setv({ visible: true, left: match.start, right: match.stop });
    // A match is what one wants to put in place of the chosen span.
    element("patch-sequence").value = match.sequence;
    element("patch-step").value = match.start;
  }

  function next(by) {
    if (matches.length === 0) return;
    at = Math.min(Math.max(at + by, 0), matches.length - 1);
    goTo(matches[at]);
  }

  function labelAsked() {
    const label = element("check-name").value;
    const value = element("check-value").value;
    return { label, ...(value === "" ? {} : { value: Number(value) }) };
  }

  const check = () =>
    attempt(async () => {
      const asked = { units: chosen(), threshold: threshold(), ...labelAsked() };
      const found = await run(`comparing with ${spoken(asked.label)}`, (options) => views.store.agreement(asked, options));
      if (found !== null) showAgreement(found, asked);
    });

  function showAgreement(found, asked) {
    const score = (name, s) => make("tr", {}, ...[name, percent(s.precision), percent(s.recall), figure(s.f1), `${count(s.both)} of ${count(s.predicted)} on, ${count(s.true)} true`].map((text) => make("td", {}, text)));
    element("agreement").hidden = found === null;
    if (found === null) {
      element("agreement-said").textContent = "";
      return;
    }
    const s = found.together;
    const [one] = found.alone;
    const which = found.alone.length === 1 ? `${spoken(one.state)} ${one.number} ${where(one, asked.threshold)}` : `at least half of ${found.alone.length} units past ${figure(asked.threshold, 3)}`;
    element("agreement-said").textContent = `${which}, as a sign of ${meant()}: precision ${percent(s.precision)}, recall ${percent(s.recall)}, over ${count(s.n)} steps, of which it holds at ${percent(s.prevalence)}.`;
    element("agreement").tBodies[0].replaceChildren(...(found.alone.length > 1 ? [score("half of them or more", s)] : []), ...found.alone.map((one) => score(`${spoken(one.state)} ${one.number} ${where(one, asked.threshold)}`, one.score)));
  }

  function meant() {
    const value = element("check-value");
    return `${spoken(element("check-name").value)}${value.value === "" ? "" : ` = ${value.selectedOptions[0].textContent}`}`;
  }

  const follow = () =>
    attempt(async () => {
      const asked = { names: names(), ...labelAsked() };
      const found = await run(`looking for units that follow ${spoken(asked.label)}`, (options) => views.store.followers(asked, options));
      if (found === null) return;
      element("followers").hidden = found.followers.length === 0;
      element("followers-said").textContent =
        found.followers.length === 0
          ? `No unit tells ${meant()} better than one that is always on.`
          : `Units that follow ${meant()} best. Unit and threshold were chosen on every other stretch of the recording; precision and recall are those of the other stretches, at ${percent(found.followers[0].held_out.prevalence)} of whose steps it holds: the precision of a unit that is on at random.`;
      element("followers").tBodies[0].replaceChildren(...found.followers.map((one) => {
        const look = make("button", { type: "button", className: "button" }, written(one));
        look.addEventListener("click", () => {
          show(one);
          units = [{ ...one, chosen: true }, ...units.filter((unit) => unit.name !== one.name || unit.number !== one.number)];
          element("find-threshold").value = one.threshold;
          showUnits();
        });
        const cells = [where(one, one.threshold), percent(one.held_out.precision), percent(one.held_out.recall), figure(one.held_out.f1), figure(one.auc)];
        return make("tr", {}, make("td", {}, look), ...cells.map((text) => make("td", {}, text)));
      }));
    });

  function showValues() {
    const label = views.about.labels.find((l) => l.name === element("check-name").value);
    const entries = label === undefined ? [] : label.names !== null ? label.names.map((name, value) => [String(value), name]) : label.binary ? [["1", "yes"], ["0", "no"]] : [["", "above 0"], ...Array.from({ length: Math.min(label.most, 20) + 1 }, (_, v) => [String(v), String(v)])];
    options(element("check-value"), entries, entries[0]?.[0]);
  }

  function recording() {
    units = [];
    current = null;
    showUnits();
    showMatches(null);
    showAgreement(null);
    element("units-count").textContent = "";
    element("followers").hidden = true;
    element("followers-said").textContent = "";
    element("find-threshold").value = "";
    const { labels } = views.about;
    options(element("check-name"), labels.map((label) => [label.name, spoken(label.title)]), labels[0]?.name);
    element("label-tools").hidden = labels.length === 0;
    showValues();
    showSpan();
  }

  function layer() {
    const boxes = views.layer.states.map((state) => {
      const box = make("input", { type: "checkbox", value: state.name, checked: state.state === "cell" || (state.state === "hidden" && views.named("cell") === null) });
      return make("label", {}, box, spoken(state.state));
    });
    element("find-states").replaceChildren(...boxes);
  }

  for (const [id, work] of [["suggest", suggest], ["find-units", findUnits], ["find-matches", findMatches], ["check-label", check], ["find-followers", follow]]) element(id).addEventListener("click", work);
  element("check-name").addEventListener("change", showValues);
  for (const id of ["span-start", "span-stop"]) {
    element(id).addEventListener("change", () => {
      const [start, last] = ["span-start", "span-stop"].map((name) => element(name).value);
      if (start !== "" && last !== "") views.pickSpan({ start: Math.round(Number(start)), stop: Math.round(Number(last)) + 1 });
    });
  }
  views.on("span", () => {
    showSpan();
    element("find-threshold").value = "";
  });
  views.on("recording", recording);
  views.on("layer", layer);
  return {
    units: chosen,
    keys: [
      [["f"], "f", "find the units of the chosen span", () => findUnits()],
      [["m"], "m", "find spans like it", () => findMatches()],
      [["n", "p"], "n p", "go to the next, the previous match", (event) => next(event.key === "n" ? 1 : -1)],
    ],
  };
};
