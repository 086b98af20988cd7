"use strict";
// Fills the maps and the text of "Look inside" with whichever excerpt, order, gate and unit the reader picks.
(async () => {
  const data = JSON.parse(document.getElementById("inside-data").textContent);
  if (data === null) return;
  const drawing = await embedded.inside;
  const model = (name) => drawing.get_model_by_name(name);
  const element = (id) => document.getElementById(id);
  // Bokeh's own array of two dimensions, the only kind an image takes.
  const Grid = model("upper-image").data.image[0].constructor;
  const MISSING = 65535;
  const CHARACTER_WIDTH = 8.5;
  const SIDES = 180;
  const maps = ["upper", "lower", "third"];
  const now = { excerpt: 0, order: "timescale", third: null, state: null, unit: 0, step: null };
  const shown = { upper: null, lower: null, third: null };
  let excerpt = null;
  let spans = [];

  const spoken = (name) => name.replaceAll("_", " ");
  const figure = (value, places = 2) => (Number.isFinite(value) ? value.toFixed(places).replace("-", "\u2212") : "not a number");

  function visible(character) {
    const code = character.codePointAt(0);
    if (character === "\n") return "\u21b5";
    if (character === "\t") return "\u2192";
    if (character === " ") return "\u00b7";
    if (code < 32) return String.fromCodePoint(0x2400 + code);
    if (code === 127) return "\u2421";
    return character;
  }

  // (T, H), row after row, as numbers again.
  function unpack(state) {
    const bytes = Uint8Array.from(atob(state.levels), (c) => c.charCodeAt(0));
    const levels = new DataView(bytes.buffer);
    const values = new Float32Array(bytes.length / 2);
    for (let i = 0; i < values.length; i++) {
      const level = levels.getUint16(2 * i, true);
      values[i] = level === MISSING ? NaN : state.low + level * state.step;
    }
    return values;
  }

  const value = (state, step, unit) => state.values[step * excerpt.units + unit];
  const rows = () => excerpt.orders[now.order];

  function options(select, entries, chosen) {
    select.replaceChildren(...entries.map(([key, text]) => new Option(text, key, key === chosen, key === chosen)));
  }

  function colour(ends, v) {
    const palette = data.palettes[ends.palette];
    if (!Number.isFinite(v)) return "#d1d5db";
    const place = Math.floor(((v - ends.bottom) / (ends.top - ends.bottom)) * palette.length);
    return palette[Math.min(Math.max(place, 0), palette.length - 1)];
  }

  function ink(background) {
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(background.slice(i, i + 2), 16) / 255);
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b) > 0.19 ? "#111827" : "#ffffff";
  }

  function pickExcerpt(index) {
    now.excerpt = index;
    excerpt = data.excerpts[index];
    for (const state of Object.values(excerpt.states)) state.values ??= unpack(state);
    const names = Object.keys(excerpt.states);
    shown.upper = "cell" in excerpt.states ? "cell" : null;
    shown.lower = "hidden" in excerpt.states ? "hidden" : names.find((n) => n !== "cell") ?? null;
    const rest = names.filter((n) => n !== shown.upper && n !== shown.lower);
    if (!rest.includes(now.third)) now.third = rest.includes("forget_gate") ? "forget_gate" : rest[0] ?? null;
    shown.third = now.third;
    if (!(now.order in excerpt.orders)) now.order = "timescale";
    now.state = excerpt.start.state;
    now.unit = excerpt.start.unit;
    now.step = null;

    const remembering = "cell" in excerpt.states ? "the cell" : "the state";
    const orderText = { timescale: `timescale of ${remembering}, slowest first`, index: "index" };
    options(element("pick-order"), Object.keys(excerpt.orders).map((key) => [key, orderText[key] ?? `correlation with ${spoken(key.slice(6))}`]), now.order);
    options(element("pick-third"), rest.map((n) => [n, spoken(n)]), now.third);
    element("pick-third").closest("label").hidden = rest.length === 0;
    options(element("pick-state"), names.map((n) => [n, spoken(n)]), now.state);
    for (const id of ["pick-unit", "slide-unit"]) element(id).max = excerpt.units - 1;

    const steps = model("steps");
    const count = excerpt.characters.length;
    steps.setv({ bounds: [0, count], reset_start: 0, reset_end: count, start: 0, end: count });
    fillText();
    drawTrack();
    drawMaps();
    pickUnit(now.unit);
    mark(null);
  }

  function fillText() {
    spans = excerpt.characters.map((character, step) => {
      const span = document.createElement("span");
      span.textContent = character === "\n" ? "\u21b5\n" : character === "\t" || character >= " " ? character : visible(character);
      span.dataset.step = step;
      return span;
    });
    element("text").replaceChildren(...spans);
  }

  function drawTrack() {
    const bands = excerpt.bands;
    const height = bands.length + 1;
    const track = { x: [], y: [], width: [], colour: [] };
    bands.forEach((name, index) => {
      const label = excerpt.labels[name];
      const most = Math.max(...label.map(Math.abs));
      const y = bands.length - index - 0.5;
      for (let start = 0; start < label.length; ) {
        let end = start + 1;
        while (end < label.length && label[end] === label[start]) end++;
        if (label[start] !== 0) {
          const grey = Math.round(225 - 165 * (Math.abs(label[start]) / most));
          track.x.push((start + end) / 2);
          track.y.push(y);
          track.width.push(end - start);
          track.colour.push(`rgb(${grey}, ${grey}, ${Math.min(255, grey + 8)})`);
        }
        start = end;
      }
    });
    model("track-rows").setv({ start: 0, end: height });
    model("bands").data = track;
    const ticks = [...bands.map((_, index) => bands.length - index - 0.5), bands.length + 0.5];
    const texts = [...bands.map((name) => (Math.max(...excerpt.labels[name]) > 1 ? `${spoken(name)} (0\u2013${Math.max(...excerpt.labels[name])})` : spoken(name))), "text"];
    model("track-axis").major_label_overrides = new Map(ticks.map((tick, i) => [tick, texts[i]]));
    model("track-ticks").ticks = ticks;
    model("track").height = 44 + 21 * height;
    drawCharacters();
  }

  // Of the maps themselves, without the names and scales at their sides.
  const width = () => element("inside").clientWidth - SIDES;

  function drawCharacters() {
    const steps = model("steps");
    const y = excerpt.bands.length + 0.5;
    const room = width() / (steps.end - steps.start);
    const track = { x: [], y: [], text: [] };
    if (room >= CHARACTER_WIDTH) {
      const last = Math.min(excerpt.characters.length, Math.ceil(steps.end));
      for (let step = Math.max(0, Math.floor(steps.start)); step < last; step++) {
        track.x.push(step + 0.5);
        track.y.push(y);
        track.text.push(visible(excerpt.characters[step]));
      }
    } else {
      track.x.push((steps.start + steps.end) / 2);
      track.y.push(y);
      track.text.push("zoom in to read the characters");
    }
    model("characters").data = track;
  }

  function drawMaps() {
    for (const place of maps) drawMap(place);
  }

  function drawMap(place) {
    const name = shown[place];
    model(place).visible = name !== null;
    if (name === null) return;
    const state = excerpt.states[name];
    const steps = excerpt.characters.length;
    const order = rows();
    // An image is drawn upwards from its first row, the order is read downwards.
    const image = new Grid(steps * excerpt.units, [excerpt.units, steps]);
    order.forEach((unit, place) => {
      const row = (excerpt.units - 1 - place) * steps;
      for (let step = 0; step < steps; step++) image[row + step] = value(state, step, unit);
    });
    model(`${place}-rows`).setv({ start: 0, end: excerpt.units });
    model(`${place}-colours`).setv({ palette: data.palettes[state.palette], low: state.bottom, high: state.top });
    model(`${place}-image`).data = { image: [image], steps: [steps], units: [excerpt.units] };
    model(`${place}-title`).text.text = spoken(name);
    frame(place);
  }

  function frame(place) {
    const row = excerpt.units - 1 - rows().indexOf(now.unit);
    model(`${place}-chosen`).data = { right: [excerpt.characters.length], bottom: [row], top: [row + 1] };
    model(`${place}-axis`).major_label_overrides = new Map([[row + 0.5, `unit ${now.unit}`]]);
    model(`${place}-ticks`).ticks = [row + 0.5];
  }

  function pickUnit(unit) {
    if (!Number.isInteger(unit)) return;
    now.unit = Math.min(Math.max(unit, 0), excerpt.units - 1);
    element("pick-unit").value = now.unit;
    element("slide-unit").value = now.unit;
    for (const place of maps) if (shown[place] !== null) frame(place);
    colourText();
    describe();
  }

  // One unit's text is coloured over that unit's own range, since units differ in it a hundredfold; gates are always 0 to 1.
  function ends(state, unit) {
    if (state.palette === "sequential") return state;
    let [bottom, top] = [Infinity, -Infinity];
    for (let step = 0; step < excerpt.characters.length; step++) {
      const v = value(state, step, unit);
      if (Number.isFinite(v)) [bottom, top] = [Math.min(bottom, v), Math.max(top, v)];
    }
    return bottom < top ? { palette: state.palette, bottom, top } : state;
  }

  function colourText() {
    const state = excerpt.states[now.state];
    const range = ends(state, now.unit);
    element("chosen-state").textContent = spoken(now.state);
    element("chosen-unit").textContent = now.unit;
    element("scale-bottom").textContent = figure(range.bottom);
    element("scale-top").textContent = figure(range.top);
    const palette = data.palettes[state.palette];
    const scale = element("scale");
    scale.width = palette.length;
    const brush = scale.getContext("2d");
    palette.forEach((paint, i) => {
      brush.fillStyle = paint;
      brush.fillRect(i, 0, 1, 1);
    });
    spans.forEach((span, step) => {
      const background = colour(range, value(state, step, now.unit));
      span.style.backgroundColor = background;
      span.style.color = ink(background);
    });
    report();
  }

  function describe() {
    const time = excerpt.memory[now.unit];
    const whose = "cell" in excerpt.states ? "Its cell" : "Its state";
    const most = excerpt.characters.length;
    element("memory").textContent =
      time === null ? `${whose} does not vary in this text.`
      : time >= most ? `${whose} stays correlated with itself over the whole text.`
      : `${whose} stays correlated with itself (above 1/e) for ${figure(time, 1)} steps.`;
    const cell = (text) => {
      const td = document.createElement("td");
      td.textContent = text;
      return td;
    };
    const lines = Object.entries(excerpt.follow[now.state]).map(([label, follows]) => {
      const line = document.createElement("tr");
      const r = follows.correlation[now.unit];
      const area = follows.auc?.[now.unit] ?? null;
      line.append(cell(spoken(label)), cell(r === null ? "\u2013" : figure(r)), cell(area === null ? "\u2013" : figure(area)));
      const best = document.createElement("button");
      best.type = "button";
      best.textContent = follows.best;
      best.title = `choose the unit that follows ${spoken(label)} best`;
      best.setAttribute("aria-current", String(follows.best === now.unit));
      best.addEventListener("click", () => pickUnit(follows.best));
      const last = document.createElement("td");
      last.append(best);
      line.append(last);
      return line;
    });
    element("follow").tBodies[0].replaceChildren(...lines);
  }

  function mark(step) {
    spans[now.step]?.classList.remove("marked");
    now.step = step;
    spans[step]?.classList.add("marked");
    for (const place of ["track", ...maps]) {
      const line = model(`${place}-step`);
      line.visible = step !== null;
      if (step !== null) line.location = step + 0.5;
    }
    report();
  }

  function report() {
    if (now.step === null) {
      element("reading").textContent = "Tap a character to mark its step in the maps.";
      return;
    }
    const state = excerpt.states[now.state];
    element("reading").textContent =
      `Step ${now.step}, character ${visible(excerpt.characters[now.step])}: ${spoken(now.state)} of unit ${now.unit} is ${figure(value(state, now.step, now.unit), 3)}.`;
  }

  function look(start, end) {
    const count = excerpt.characters.length;
    const width = Math.min(end - start, count);
    const from = Math.min(Math.max(start, 0), count - width);
    model("steps").setv({ start: from, end: from + width });
  }

  function under(event, place) {
    const step = Math.floor(event.x);
    const row = Math.floor(event.y);
    if (step < 0 || step >= excerpt.characters.length || row < 0 || row >= excerpt.units) return null;
    return { step, unit: place === "track" ? null : rows()[excerpt.units - 1 - row] };
  }

  // Where the pointer is on the page: the plots report only where it is in their own frame.
  let pointer = { x: 0, y: 0 };
  const tip = element("tip");
  element("maps").addEventListener("mousemove", (event) => {
    const box = element("maps").getBoundingClientRect();
    pointer = { x: event.clientX - box.left, y: event.clientY - box.top, width: box.width };
  }, true);
  element("maps").addEventListener("mouseleave", () => (tip.hidden = true));

  for (const place of ["track", ...maps]) {
    model(place).on_event("tap", (event) => {
      const at = under(event, place);
      if (at === null) return;
      mark(at.step);
      if (at.unit !== null) {
        // Tapping a map also asks to see the text in that state.
        now.state = shown[place];
        element("pick-state").value = now.state;
        pickUnit(at.unit);
      }
    });
    model(place).on_event("mousemove", (event) => {
      const at = under(event, place);
      tip.hidden = at === null;
      if (at === null) return;
      const lines = [`step ${at.step}, character ${visible(excerpt.characters[at.step])}`];
      if (at.unit === null) for (const name of Object.keys(excerpt.labels)) lines.push(`${spoken(name)}: ${excerpt.labels[name][at.step]}`);
      else {
        lines.push(`unit ${at.unit}`);
        for (const key of new Set(maps.map((p) => shown[p]))) {
          if (key !== null) lines.push(`${spoken(key)}: ${figure(value(excerpt.states[key], at.step, at.unit), 3)}`);
        }
      }
      tip.textContent = lines.join("\n");
      const left = pointer.x + 16 + tip.offsetWidth > pointer.width ? pointer.x - tip.offsetWidth - 12 : pointer.x + 16;
      tip.style.left = `${Math.max(0, left)}px`;
      tip.style.top = `${pointer.y + 14}px`;
    });
    model(place).on_event("mouseleave", () => (tip.hidden = true));
  }

  element("pick-excerpt").addEventListener("change", (event) => pickExcerpt(Number(event.target.value)));
  element("pick-order").addEventListener("change", (event) => {
    now.order = event.target.value;
    drawMaps();
  });
  element("pick-third").addEventListener("change", (event) => {
    now.third = shown.third = event.target.value;
    drawMap("third");
  });
  element("pick-state").addEventListener("change", (event) => {
    now.state = event.target.value;
    colourText();
    describe();
  });
  element("slide-unit").addEventListener("input", (event) => pickUnit(Number(event.target.value)));
  element("pick-unit").addEventListener("change", (event) => pickUnit(Math.round(Number(event.target.value))));
  element("zoom-whole").addEventListener("click", () => look(0, excerpt.characters.length));
  element("zoom-close").addEventListener("click", () => {
    const steps = model("steps");
    const close = Math.floor(width() / (CHARACTER_WIDTH + 0.5));
    const centre = now.step ?? (steps.start + steps.end) / 2;
    const from = steps.end - steps.start >= excerpt.characters.length && now.step === null ? 0 : Math.round(centre - close / 2);
    look(from, from + close);
  });
  element("text").addEventListener("click", (event) => {
    const step = event.target.dataset?.step;
    if (step === undefined) return;
    mark(Number(step));
    const steps = model("steps");
    const width = steps.end - steps.start;
    if (now.step < steps.start || now.step >= steps.end) look(now.step - Math.floor(width / 2), now.step + Math.ceil(width / 2));
  });
  let waiting = false;
  const later = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      drawCharacters();
    });
  };
  model("steps").properties.start.change.connect(later);
  model("steps").properties.end.change.connect(later);
  addEventListener("resize", later);

  pickExcerpt(0);
})();
