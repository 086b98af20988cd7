"use strict";
globalThis.unrolled ??= {};
// The text in view, coloured by one unit; a click marks a step, a selection chooses a span.
unrolled.text = (views) => {
  const { spoken, figure, visible, count, characters, ink } = unrolled.words;
  const MOST = 1600; // characters, more than which nobody reads at once
  const panel = views.element("text");
  let spans = [];
  let from = 0;
  let shown = null;
  let wanted = false;
  let busy = false;

  function part() {
    const { start, end } = views.steps;
    const first = Math.max(0, Math.floor(start));
    return { start: first, stop: Math.min(views.length, Math.max(first + 1, Math.ceil(end)), first + MOST) };
  }

  async function draw() {
    if (views.about.kind !== "characters") return;
    wanted = true;
    if (busy) return;
    busy = true;
    try {
      while (wanted) {
        wanted = false;
        await drawOnce();
      }
    } catch (error) {
      views.say(error.message);
    } finally {
      busy = false;
    }
  }

  async function drawOnce() {
    const { sequence, state, unit } = views.now;
    const asked = part();
    const found = await views.store.text({ sequence, ...asked, name: views.named(state), unit });
    shown = { state, unit, ...found };
    from = asked.start;
    // One unit's text is coloured over that unit's own range, since units differ in it a hundredfold; gates are always 0 to 1.
    const whole = views.stateOf(state);
    const own = whole.palette === "sequential" || !(found.high > found.low) ? whole : { bottom: found.low, top: found.high };
    const texts = characters(found.text);
    if (spans.length !== texts.length) {
      spans = texts.map(() => document.createElement("span"));
      panel.replaceChildren(...spans);
    }
    texts.forEach((character, index) => {
      const span = spans[index];
      const seen = character === "\n" ? "\u21b5\n" : character === "\t" || (character >= " " && character === visible(character)) || character === " " ? character : visible(character);
      if (span.textContent !== seen) span.textContent = seen;
      span.dataset.step = from + index;
      const background = views.colour(whole, found.values[index], own);
      span.style.backgroundColor = background;
      span.style.color = ink(background);
    });
    views.element("chosen-state").textContent = spoken(state);
    views.element("chosen-unit").textContent = unit;
    views.element("scale-bottom").textContent = figure(own.bottom);
    views.element("scale-top").textContent = figure(own.top);
    const { start, end } = views.steps;
    const cut = Math.ceil(Math.min(end, views.length)) - Math.max(0, Math.floor(start)) > MOST;
    views.element("text-part").textContent = cut
      ? `Steps ${count(asked.start)} to ${count(asked.stop - 1)}: the first ${count(MOST)} in view. Zoom in for others.`
      : `Steps ${count(asked.start)} to ${count(asked.stop - 1)}, those in view.`;
    const palette = views.palette(whole);
    const scale = views.element("scale");
    scale.width = palette.length;
    const brush = scale.getContext("2d");
    palette.forEach((paint, i) => {
      brush.fillStyle = paint;
      brush.fillRect(i, 0, 1, 1);
    });
    marks();
  }

  function marks() {
    const { step, span } = views.now;
    spans.forEach((element, index) => {
      const at = from + index;
      element.classList.toggle("marked", at === step);
      element.classList.toggle("chosen", span !== null && at >= span.start && at < span.stop);
    });
    const at = step === null ? undefined : shown?.values[step - from];
    views.element("reading").textContent =
      step === null
        ? "Click a character or a map to mark a step."
        : at === undefined
          ? `Step ${count(step)} is marked.`
          : `Step ${count(step)}, character ${spans[step - from].textContent[0]}: ${spoken(shown.state)} of unit ${shown.unit} is ${figure(at, 4)}.`;
  }

  function stepOf(node) {
    const element = node?.nodeType === Node.TEXT_NODE ? node.parentElement : node;
    const step = element?.dataset?.step;
    return step === undefined ? null : Number(step);
  }

  panel.addEventListener("mouseup", () => {
    const selection = getSelection();
    if (selection.isCollapsed) return;
    const ends = [selection.anchorNode, selection.focusNode].map(stepOf);
    if (ends.includes(null)) return;
    views.pickSpan({ start: Math.min(...ends), stop: Math.max(...ends) + 1 });
    selection.removeAllRanges();
  });
  panel.addEventListener("click", (event) => {
    const step = stepOf(event.target);
    if (step !== null) views.goTo(step);
  });
  views.on("drawn", draw);
  views.on("unit", draw);
  views.on("step", marks);
  views.on("span", marks);
  views.on("recording", () => {
    views.element("source").hidden = views.about.kind !== "characters";
    spans = [];
    shown = null;
  });
};
