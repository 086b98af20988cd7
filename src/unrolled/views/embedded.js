"use strict";
globalThis.unrolled ??= {};
// Answers from data that are embedded in the page: one excerpt, its values as 16-bit steps between their extremes.
unrolled.Embedded = class {
  static MISSING = 65535;
  static MOST_RAW = 4; // steps to a column from which on columns are reduced

  constructor(excerpt) {
    this.excerpt = excerpt;
    this.about = excerpt.about;
    this.characters = excerpt.text === null ? null : unrolled.words.characters(excerpt.text);
    this.values = excerpt.values === null ? null : this.unpack(excerpt.values);
    this.states = new Map();
    for (const layer of this.about.layers) for (const state of layer.states) this.states.set(state.name, { ...state, values: this.unpack(excerpt.states[state.name]) });
  }

  // (T, H), row after row, as numbers again.
  unpack(state) {
    const bytes = Uint8Array.from(atob(state.levels), (c) => c.charCodeAt(0));
    const levels = new DataView(bytes.buffer);
    const values = new Float32Array(bytes.length / 2);
    for (let i = 0; i < values.length; i++) {
      const level = levels.getUint16(2 * i, true);
      values[i] = level === unrolled.Embedded.MISSING ? NaN : state.low + level * state.step;
    }
    return values;
  }

  layer(name) {
    return this.about.layers.find((layer) => layer.name === name);
  }

  async order({ layer, by }) {
    return this.excerpt.orders[layer][by];
  }

  columns({ start, stop, columns }) {
    const span = Math.max(1, Math.floor((stop - start) / columns));
    const first = Math.floor(start / span) * span;
    return { start: first, span, count: Math.ceil((stop - first) / span) };
  }

  // Lowest and highest value of one unit in each column.
  extremes(values, width, unit, { start, span, count }) {
    const low = new Float32Array(count);
    const high = new Float32Array(count);
    const steps = values.length / width;
    for (let c = 0; c < count; c++) {
      let [a, b] = [Infinity, -Infinity];
      for (let step = start + c * span; step < Math.min(start + (c + 1) * span, steps); step++) {
        const v = values[step * width + unit];
        if (Number.isNaN(v)) a = b = NaN;
        a = Number.isNaN(a) ? NaN : Math.min(a, v);
        b = Number.isNaN(b) ? NaN : Math.max(b, v);
      }
      low[c] = a;
      high[c] = b;
    }
    return { low, high };
  }

  async window({ layer, names, order, first, last, rows, ...asked }) {
    const at = this.columns(asked);
    const { units } = this.layer(layer);
    const shown = this.excerpt.orders[layer][order].slice(first, last);
    const group = Math.max(1, Math.ceil(shown.length / Math.max(rows, 1)));
    const count = Math.ceil(shown.length / group);
    const maps = {};
    for (const name of names) {
      const { values } = this.states.get(name);
      const centres = this.excerpt.states[name].centres;
      const image = new Float32Array(count * at.count);
      image.shape = [count, at.count];
      for (let row = 0; row < count; row++) {
        const farthest = new Float32Array(at.count).fill(-1);
        for (const unit of shown.slice(row * group, (row + 1) * group)) {
          const { low, high } = this.extremes(values, units, unit, at);
          for (let c = 0; c < at.count; c++) {
            const value = high[c] - centres[unit] >= centres[unit] - low[c] ? high[c] : low[c];
            const apart = Number.isNaN(value) ? Infinity : Math.abs(value - centres[unit]);
            if (apart > farthest[c]) {
              farthest[c] = apart;
              image[row * at.count + c] = value;
            }
          }
        }
      }
      maps[name] = image;
    }
    return { start: at.start, span: at.span, group, maps };
  }

  async track(asked) {
    const at = this.columns(asked);
    const labels = {};
    for (const [name, values] of Object.entries(this.excerpt.labels)) {
      labels[name] = Int32Array.from({ length: at.count }, (_, c) => Math.max(...values.slice(at.start + c * at.span, at.start + (c + 1) * at.span)));
    }
    return { start: at.start, span: at.span, labels, text: this.characters?.slice(asked.start, asked.stop).join("") ?? null, channels: this.channels(at) };
  }

  channels(at) {
    const { channels: names } = this.excerpt;
    if (this.values === null) return null;
    // Channels have units of their own: beside each other they are shown in their own spread.
    this.scaled ??= this.inSpread(names.length);
    const all = names.map((_, index) => this.extremes(this.scaled, names.length, index, at));
    const together = (bound) => {
      const rows = new Float32Array(names.length * at.count);
      all.forEach((one, index) => rows.set(one[bound], index * at.count));
      rows.shape = [names.length, at.count];
      return rows;
    };
    return { names, low: together("low"), high: together("high") };
  }

  inSpread(width) {
    const scaled = new Float32Array(this.values.length);
    for (let channel = 0; channel < width; channel++) {
      const there = [];
      for (let i = channel; i < this.values.length; i += width) if (!Number.isNaN(this.values[i])) there.push(this.values[i]);
      const mean = there.reduce((sum, v) => sum + v, 0) / there.length;
      const spread = Math.sqrt(there.reduce((sum, v) => sum + (v - mean) ** 2, 0) / there.length) || 1;
      for (let i = channel; i < this.values.length; i += width) scaled[i] = (this.values[i] - mean) / spread;
    }
    return scaled;
  }

  async unit({ layer, unit, names, ...asked }) {
    const at = this.columns(asked);
    const { units } = this.layer(layer);
    const found = { start: at.start, span: at.span, low: {}, high: {} };
    for (const name of names) {
      const { low, high } = this.extremes(this.states.get(name).values, units, unit, at);
      found.low[name] = low;
      found.high[name] = high;
    }
    return found;
  }

  async text({ start, stop, name, unit }) {
    const { values } = this.states.get(name);
    const width = values.length / this.characters.length;
    const whole = this.extremes(values, width, unit, { start: 0, span: this.characters.length, count: 1 });
    return {
      text: this.characters.slice(start, stop).join(""),
      values: Float32Array.from({ length: stop - start }, (_, i) => values[(start + i) * width + unit]),
      low: whole.low[0],
      high: whole.high[0],
    };
  }

  async exact({ layer, start, stop, units, name }) {
    const { states, units: width } = this.layer(layer);
    const found = { text: this.characters?.slice(start, stop).join("") ?? null, labels: {} };
    if (stop - start === 1 && this.values !== null) found.channels = Object.fromEntries(this.excerpt.channels.map((channel, index) => [channel, this.values[start * this.excerpt.channels.length + index]]));
    if (stop - start === 1) for (const [label, values] of Object.entries(this.excerpt.labels)) found.labels[label] = values[start];
    if (units === null) return found;
    if (stop - start === 1 && units.length === 1) {
      found.values = Object.fromEntries(states.map((s) => [s.state, this.states.get(s.name).values[start * width + units[0]]]));
      return found;
    }
    [found.low, found.high] = [Infinity, -Infinity];
    for (let step = start; step < stop; step++) {
      for (const unit of units) {
        const v = this.states.get(name).values[step * width + unit];
        if (v < found.low) [found.low, found.low_at] = [v, [step, unit]];
        if (v > found.high) [found.high, found.high_at] = [v, [step, unit]];
      }
    }
    return found;
  }

  async find({ text, after }) {
    const sought = unrolled.words.characters(text);
    const here = (step) => sought.every((character, i) => this.characters[step + i] === character);
    const steps = this.characters.length;
    for (let i = 1; i <= steps; i++) if (here((after + i) % steps)) return { step: (after + i) % steps };
    return { step: null };
  }

  async follows({ name }) {
    return this.excerpt.follows[name];
  }
};
