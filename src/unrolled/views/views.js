"use strict";
globalThis.unrolled ??= {};
// The views of one recording on one axis of steps. `store` answers what they ask for: it reads data that are embedded in
// the page, or asks the server. What is drawn follows `now`; everything that changes `now` goes through a method here.
unrolled.Views = class {
  static MAPS = ["upper", "lower", "third"];
  static PLOTS = ["track", ...this.MAPS, "values", "unit", "gradient", "effect"];
  static CHARACTER = 8.5; // pixels
  static SIDES = 170; // pixels left and right of the plots
  static IDLE = 250; // milliseconds without a wish, after which a coarse picture is made finer

  constructor(drawing) {
    this.drawing = drawing;
    this.painter = new unrolled.Painter(this);
    this.listeners = {};
    this.order = null; // unit numbers, the first one on top
    this.hiddenCurves = new Set();
    this.busy = false;
    this.again = false;
    this.drawings = 0;
    this.listen();
    this.repaint();
  }

  // Shows a recording; called again it shows another one.
  async use(store) {
    const { spoken, options } = unrolled.words;
    this.store = store;
    this.about = store.about;
    this.order = null;
    this.drawn = undefined;
    const { layers, orders, order_titles: titles, sequences, start } = this.about;
    this.now = { sequence: start.sequence ?? 0, layer: 0, order: orders[0], third: null, state: null, unit: 0, step: null, span: null };
    options(this.element("pick-layer"), layers.map((layer, index) => [String(index), layer.title]), "0");
    this.element("pick-layer").closest("label").hidden = layers.length < 2;
    options(this.element("pick-order"), orders.map((name) => [name, titles[name] ?? spoken(name)]), this.now.order);
    options(this.element("pick-sequence"), sequences.map((sequence, index) => [String(index), sequence.title]), String(this.now.sequence));
    this.element("pick-sequence").closest("label").hidden = sequences.length < 2;
    for (const name of ["gradient", "effect"]) this.model(name).visible = false;
    this.mark(null);
    this.pickSpan(null);
    const count = this.length;
    this.steps.setv({ bounds: [0, count], reset_start: 0, reset_end: count, start: start.start ?? 0, end: Math.min(count, start.stop ?? count) });
    this.tell("recording");
    await this.pickLayer(Math.max(0, layers.findIndex((layer) => layer.name === start.layer)));
  }

  element(id) {
    return document.getElementById(id);
  }

  model(name) {
    return this.drawing.get_model_by_name(name);
  }

  on(name, listener) {
    (this.listeners[name] ??= []).push(listener);
  }

  tell(name) {
    for (const listener of this.listeners[name] ?? []) listener();
  }

  get layer() {
    return this.about.layers[this.now.layer];
  }

  get length() {
    return this.about.sequences[this.now.sequence].length;
  }

  get steps() {
    return this.model("steps");
  }

  // The recorded name of a state of the layer that is shown.
  named(state) {
    return this.layer.states.find((s) => s.state === state)?.name ?? null;
  }

  stateOf(state) {
    return this.layer.states.find((s) => s.state === state) ?? null;
  }

  // Which state each map shows.
  get shown() {
    const states = this.layer.states.map((s) => s.state);
    const upper = states.includes("cell") ? "cell" : null;
    const lower = states.includes("hidden") ? "hidden" : (states.find((s) => s !== upper) ?? null);
    return { upper, lower, third: this.now.third };
  }

  palette(state) {
    const name = state.palette === "diverging" && unrolled.scheme.now() === "dark" ? "diverging-dark" : state.palette;
    return this.about.palettes[name];
  }

  colour(state, value, ends = state) {
    if (!Number.isFinite(value)) return "#9ca3af";
    const palette = this.palette(state);
    const place = Math.floor(((value - ends.bottom) / (ends.top - ends.bottom)) * palette.length);
    return palette[Math.min(Math.max(place, 0), palette.length - 1)];
  }

  // Pixels of the plots, without what stands at their sides.
  get width() {
    return Math.max(120, this.element("inside").clientWidth - unrolled.Views.SIDES);
  }

  async pickLayer(index) {
    const { spoken, options } = unrolled.words;
    this.now.layer = index;
    const states = this.layer.states.map((s) => s.state);
    const { upper, lower } = this.shown;
    // The gates of one unit are many lines: they are shown when asked for.
    this.hiddenCurves = new Set(states.filter((state) => state !== upper && state !== lower));
    const rest = states.filter((s) => s !== upper && s !== lower);
    this.now.third = rest.includes(this.now.third) ? this.now.third : rest.includes("forget_gate") ? "forget_gate" : (rest[0] ?? null);
    options(this.element("pick-third"), rest.map((s) => [s, spoken(s)]), this.now.third);
    this.element("pick-third").closest("label").hidden = rest.length === 0;
    const start = this.about.start;
    const here = start.layer === this.layer.name;
    this.now.state = here && states.includes(start.state) ? start.state : (upper ?? lower);
    this.now.unit = here && start.unit !== null ? start.unit : null;
    options(this.element("pick-state"), states.map((s) => [s, spoken(s)]), this.now.state);
    for (const id of ["pick-unit", "slide-unit"]) this.element(id).max = this.layer.units - 1;
    this.model("places").setv({ bounds: [0, this.layer.units], start: 0, end: this.layer.units });
    await this.setOrder(this.now.order);
    this.pickUnit(this.now.unit);
    this.tell("layer");
  }

  async pickSequence(index) {
    this.now.sequence = index;
    this.element("pick-sequence").value = String(index);
    this.mark(null);
    this.pickSpan(null);
    const count = this.length;
    this.steps.setv({ bounds: [0, count], reset_start: 0, reset_end: count, start: 0, end: count });
    this.tell("sequence");
    await this.draw();
  }

  async pickOrder(order) {
    await this.setOrder(order);
    await this.draw();
  }

  async setOrder(order) {
    this.now.order = order;
    this.order = Array.from(await this.store.order({ layer: this.layer.name, by: order }));
    this.places = new Map(this.order.map((unit, place) => [unit, place]));
    this.now.unit ??= this.order[0];
  }

  // Draws what is in view; while one drawing is under way only the last wish is kept.
  async draw() {
    if (this.busy) {
      this.again = true;
      return;
    }
    this.busy = true;
    clearTimeout(this.refining);
    try {
      do {
        this.again = false;
        await this.drawOnce(true);
      } while (this.again);
      // Coarse at once, and as fine as there is room for when nothing else is wanted for a while.
      if (this.drawn?.coarse) this.refining = setTimeout(() => this.refine(), unrolled.Views.IDLE);
    } catch (error) {
      this.say(error.message);
    } finally {
      this.busy = false;
    }
  }

  // Does not hold up a drawing that is wanted meanwhile, and gives way to it.
  async refine() {
    try {
      await this.drawOnce(false);
    } catch (error) {
      if (error.status !== 409) this.say(error.message);
    }
  }

  say(message) {
    this.element("reading").textContent = message;
  }

  async drawOnce(quick) {
    if (this.order === null) return;
    const { sequence, layer, unit } = this.now;
    const { start, end } = this.steps;
    const margin = (end - start) / 8;
    const from = Math.max(0, Math.floor(start - margin));
    const stop = Math.min(this.length, Math.ceil(end + margin));
    const columns = Math.min(4000, Math.max(32, Math.round((this.width * (stop - from)) / (end - start))));
    const names = [...new Set(Object.values(this.shown).filter((s) => s !== null))].map((s) => this.named(s));
    const places = this.model("places");
    const units = this.layer.units;
    const [first, last] = [Math.max(0, Math.floor(units - places.end)), Math.min(units, Math.ceil(units - places.start))];
    const asked = { sequence, start: from, stop, columns, quick };
    const drawing = ++this.drawings;
    const rows = Math.max(24, this.model("upper").inner_height || 150);
    const [window, track, curves] = await Promise.all([
      this.store.window({ ...asked, layer: this.layer.name, names, order: this.now.order, first, last, rows: Math.round(rows) }),
      this.store.track(asked),
      this.store.unit({ ...asked, layer: this.layer.name, unit, names: this.layer.states.filter((s, index) => index === 0 || !this.hiddenCurves.has(s.state)).map((s) => s.name) }),
    ]);
    if (layer !== this.now.layer || sequence !== this.now.sequence || (!quick && drawing !== this.drawings)) return;
    const coarse = quick && 3 * window.span * columns > 10 * (stop - from);
    this.drawn = { window, from, stop, first, last, coarse };
    for (const place of unrolled.Views.MAPS) this.painter.map(place, window, first);
    this.painter.track(track, from);
    this.painter.unit(curves);
    this.painter.frame();
    this.tell("drawn");
    this.element("maps").dataset.drawn = `${sequence}:${start}:${end}`;
  }

  pickUnit(unit, state = null) {
    if (!Number.isInteger(unit)) return;
    this.now.unit = Math.min(Math.max(unit, 0), this.layer.units - 1);
    if (state !== null && this.named(state) !== null) {
      this.now.state = state;
      this.element("pick-state").value = state;
    }
    this.element("pick-unit").value = this.now.unit;
    this.element("slide-unit").value = this.now.unit;
    this.tell("unit");
    this.draw();
  }

  mark(step) {
    this.now.step = step;
    for (const place of unrolled.Views.PLOTS) {
      const line = this.model(`${place}-step`);
      line.visible = step !== null;
      if (step !== null) line.location = step + 0.5;
    }
    this.tell("step");
  }

  // span: {start, stop} or null
  pickSpan(span) {
    if (span !== null) {
      const [start, stop] = [Math.max(0, Math.min(span.start, span.stop)), Math.min(this.length, Math.max(span.start, span.stop))];
      span = stop > start ? { start, stop } : null;
    }
    this.now.span = span;
    for (const place of unrolled.Views.PLOTS) {
      const box = this.model(`${place}-span`);
      box.visible = span !== null;
      if (span !== null) box.setv({ left: span.start, right: span.stop });
    }
    this.tell("span");
  }

  look(start, end) {
    const count = this.length;
    const width = Math.min(Math.max(end - start, 8), count);
    const from = Math.min(Math.max(start, 0), count - width);
    this.steps.setv({ start: from, end: from + width });
  }

  zoom(factor) {
    const { start, end } = this.steps;
    const { step } = this.now;
    const centre = step !== null && step >= start && step < end ? step + 0.5 : (start + end) / 2;
    this.look(centre - (centre - start) * factor, centre + (end - centre) * factor);
  }

  closeUp() {
    const close = Math.floor(this.width / (unrolled.Views.CHARACTER + 0.5));
    const { start, end } = this.steps;
    const whole = end - start >= this.length;
    const centre = this.now.step ?? (this.now.span ? (this.now.span.start + this.now.span.stop) / 2 : whole ? close / 2 : (start + end) / 2);
    this.look(Math.round(centre - close / 2), Math.round(centre - close / 2) + close);
  }

  // Brings a step into view and marks it.
  goTo(step) {
    const at = Math.min(Math.max(step, 0), this.length - 1);
    const { start, end } = this.steps;
    if (at < start || at >= end) this.look(at - Math.floor((end - start) / 2), at + Math.ceil((end - start) / 2));
    this.mark(at);
  }

  // Goes to a step, or to where a text stands next, which becomes the chosen span.
  async seek(wanted) {
    const { count, characters } = unrolled.words;
    if (/^\s*[\d,]+\s*$/.test(wanted)) {
      this.goTo(Number(wanted.replaceAll(",", "")));
      return;
    }
    if (wanted === "") return;
    try {
      const { step } = await this.store.find({ sequence: this.now.sequence, text: wanted, after: this.now.step ?? -1 });
      if (step === null) {
        this.say(`\u201c${wanted}\u201d does not stand in the ${count(this.length)} steps of this sequence.`);
        return;
      }
      this.goTo(step);
      this.pickSpan({ start: step, stop: step + characters(wanted).length });
    } catch (error) {
      this.say(error.message);
    }
  }

  // Unit of a height in a map.
  unitAt(y) {
    const place = this.layer.units - 1 - Math.floor(y);
    return this.order[place] ?? null;
  }

  listen() {
    const pick = (id, then) => this.element(id).addEventListener("change", (event) => then(event.target.value));
    pick("pick-layer", (value) => this.pickLayer(Number(value)));
    pick("pick-sequence", (value) => this.pickSequence(Number(value)));
    pick("pick-order", (value) => this.pickOrder(value));
    pick("pick-third", (value) => {
      this.now.third = value;
      this.draw();
    });
    pick("pick-state", (value) => this.pickUnit(this.now.unit, value));
    pick("pick-unit", (value) => this.pickUnit(Math.round(Number(value))));
    this.element("go").addEventListener("submit", (event) => {
      event.preventDefault();
      this.seek(this.element("go-to").value);
    });
    this.element("slide-unit").addEventListener("input", (event) => this.pickUnit(Number(event.target.value)));
    this.element("zoom-whole").addEventListener("click", () => this.look(0, this.length));
    this.element("zoom-close").addEventListener("click", () => this.closeUp());
    this.element("zoom-in").addEventListener("click", () => this.zoom(0.5));
    this.element("zoom-out").addEventListener("click", () => this.zoom(2));
    // Ranges tell of every pixel of a drag; a frame is drawn at most once.
    let waiting = false;
    const later = () => {
      if (waiting || this.store === undefined) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        this.draw();
      });
    };
    for (const range of [this.steps, this.model("places")]) {
      range.properties.start.change.connect(later);
      range.properties.end.change.connect(later);
    }
    // The plots have no width before they are seen.
    new ResizeObserver(later).observe(this.element("inside"));
    unrolled.scheme.on(() => {
      if (this.store === undefined) return;
      this.repaint();
      this.tell("unit");
    });
    for (const place of unrolled.Views.PLOTS) {
      this.model(place).on_event("tap", (event) => {
        const step = Math.floor(event.x);
        if (step < 0 || step >= this.length) return;
        this.mark(step);
        // Tapping a map also asks to see the unit in that state.
        const unit = unrolled.Views.MAPS.includes(place) ? this.unitAt(event.y) : null;
        if (unit !== null) this.pickUnit(unit, this.shown[place]);
      });
    }
    this.model("track").on_event("selectiongeometry", (event) => {
      if (event.final && event.geometry.type === "rect") this.pickSpan({ start: Math.floor(event.geometry.x0), stop: Math.ceil(event.geometry.x1) });
    });
  }

  // Colours of axes come from the style sheet, which plots read when they are painted.
  repaint() {
    // The scales beside the maps do not read the style sheet.
    const ink = unrolled.scheme.now() === "dark" ? "#c6ccd5" : "#374151";
    for (const map of unrolled.Views.MAPS) this.model(`${map}-bar`).major_label_text_color = ink;
    for (const place of unrolled.Views.PLOTS) this.model(place).change.emit();
    this.draw();
  }
};
