"use strict";
globalThis.unrolled ??= {};
// Paints what was answered into the plots.
unrolled.Painter = class {
  constructor(views) {
    this.views = views;
    // Bokeh's own array of two dimensions, the only kind an image takes.
    this.Grid = views.model("upper-image").data.image[0].constructor;
  }

  map(place, window, first) {
    const { views } = this;
    const state = views.stateOf(views.shown[place]);
    views.model(place).visible = state !== null;
    if (state === null) return;
    const values = window.maps[state.name];
    const [rows, columns] = values.shape;
    // An image is drawn upwards from its first row, the order is read downwards.
    const image = new this.Grid(rows * columns, [rows, columns]);
    for (let row = 0; row < rows; row++) image.set(values.subarray((rows - 1 - row) * columns, (rows - row) * columns), row * columns);
    const top = views.layer.units - first;
    const height = rows * window.group;
    views.model(`${place}-colours`).setv({ palette: views.palette(state), low: state.bottom, high: state.top });
    views.model(`${place}-image`).data = { image: [image], x: [window.start], y: [top - height], steps: [columns * window.span], units: [height] };
    const several = [window.span > 1 ? `${window.span} steps` : null, window.group > 1 ? `${window.group} units` : null].filter((part) => part !== null);
    // Of several the value farthest from what is usual is shown: the page says so beside the plots.
    views.model(`${place}-title`).text.text = unrolled.words.spoken(state.state) + (several.length > 0 ? `  (a dot: ${several.join(" \u00d7 ")})` : "");
  }

  track(track, from) {
    const { views } = this;
    const { spoken, visible, characters } = unrolled.words;
    const dark = unrolled.scheme.now() === "dark";
    const bands = views.about.labels.filter((label) => label.band);
    const text = views.about.kind === "characters";
    const height = bands.length + (text ? 1 : 0);
    const data = { x: [], y: [], width: [], colour: [] };
    bands.forEach((label, index) => {
      const values = track.labels[label.name];
      const y = bands.length - index - 0.5;
      for (let a = 0; a < values.length; ) {
        let b = a + 1;
        while (b < values.length && values[b] === values[a]) b++;
        if (values[a] > 0 || (values[a] === 0 && label.names)) {
          const share = (label.names ? values[a] + 1 : values[a]) / Math.max(1, label.names ? label.most + 1 : label.most);
          const grey = Math.round(dark ? 60 + 165 * share : 225 - 165 * share);
          const left = track.start + a * track.span;
          const right = Math.min(track.start + b * track.span, views.length);
          data.x.push((left + right) / 2);
          data.y.push(y);
          data.width.push(right - left);
          data.colour.push(`rgb(${grey}, ${grey}, ${Math.min(255, grey + 8)})`);
        }
        a = b;
      }
    });
    views.model("track-rows").setv({ start: 0, end: Math.max(1, height) });
    views.model("bands").data = data;
    const ticks = bands.map((_, index) => bands.length - index - 0.5);
    const texts = bands.map((label) => (label.names || label.most <= 1 ? spoken(label.title) : `${spoken(label.title)} 0\u2013${label.most}`));
    if (text) {
      ticks.push(bands.length + 0.5);
      texts.push("text");
    }
    views.model("track-axis").major_label_overrides = new Map(ticks.map((tick, i) => [tick, texts[i]]));
    views.model("track-ticks").ticks = ticks;
    views.model("track").height = 58 + 21 * Math.max(height, 1);
    const letters = { x: [], y: [], text: [], colour: [] };
    if (text) {
      const { start, end } = views.steps;
      const ink = dark ? "#e5e7eb" : "#111827";
      if (track.text !== null && views.width / (end - start) >= unrolled.Views.CHARACTER) {
        characters(track.text).forEach((character, index) => {
          letters.x.push(from + index + 0.5);
          letters.y.push(bands.length + 0.5);
          letters.text.push(visible(character));
          letters.colour.push(ink);
        });
      } else {
        letters.x.push((start + end) / 2);
        letters.y.push(bands.length + 0.5);
        letters.text.push("zoom in to read the characters");
        letters.colour.push(dark ? "#9ca3af" : "#4b5563");
      }
    } else {
      // Bokeh paints between taking new places and new colours, and fails where there are no colours left.
      for (const [name, value] of Object.entries({ x: 0, y: -1, text: "", colour: "#000000" })) letters[name].push(value);
    }
    views.model("characters").data = letters;
    views.model("values").visible = Boolean(track.channels);
    if (track.channels) {
      const curves = track.channels.names.map((name, index) => {
        const size = track.channels.low.shape[1];
        const [low, high] = [track.channels.low, track.channels.high].map((all) => all.subarray(index * size, (index + 1) * size));
        return { name, title: name, low, high, look: unrolled.words.look(null, index) };
      });
      this.curves("values", track, curves);
      this.legend("values-legend", "input:", curves);
    }
  }

  unit(found) {
    const { views } = this;
    const { spoken, look, make, line } = unrolled.words;
    const curves = views.layer.states.map((s, index) => ({ name: s.state, title: spoken(s.state), low: found.low[s.name] ?? [], high: found.high[s.name] ?? [], look: look(s.state, index) }));
    views.model("unit").visible = true;
    this.curves("unit", found, curves);
    views.model("unit-title").text.text = `unit ${views.now.unit}`;
    views.element("unit-legend").setAttribute("aria-label", `curves of unit ${views.now.unit}`);
    const legend = views.element("unit-legend");
    const key = curves.map((c) => c.name + views.hiddenCurves.has(c.name)).join() + unrolled.scheme.now();
    if (legend.dataset.key === key) return;
    legend.dataset.key = key;
    legend.replaceChildren(make("li", { className: "of" }, "unit:"), ...curves.map((curve) => {
      const button = make("button", { type: "button", title: "hide or show this curve", "aria-pressed": String(!views.hiddenCurves.has(curve.name)) });
      button.append(line(curve.look), curve.title);
      button.addEventListener("click", () => {
        if (!views.hiddenCurves.delete(curve.name)) views.hiddenCurves.add(curve.name);
        views.draw();
      });
      return make("li", {}, button);
    }));
  }

  // What the lines of a plot are.
  legend(id, of, curves) {
    const { views } = this;
    const { make, line } = unrolled.words;
    views.element(id).replaceChildren(make("li", { className: "of" }, of), ...curves.map((curve) => make("li", { className: "line" }, line(curve.look), curve.title)));
  }

  // Lines over steps; where a column holds several steps, between their lowest and highest value.
  curves(name, { start, span }, curves) {
    const { views } = this;
    const shown = curves.filter((curve) => name !== "unit" || !views.hiddenCurves.has(curve.name));
    const data = { xs: [], ys: [], colour: [], dash: [], width: [] };
    let [bottom, top] = [Infinity, -Infinity];
    for (const { low, high, look } of shown) {
      const count = low.length;
      const xs = new Float64Array(span > 1 ? 2 * count : count);
      const ys = new Float64Array(xs.length);
      for (let i = 0; i < count; i++) {
        const x = start + (i + 0.5) * span;
        if (span > 1) {
          // Lowest and highest in turn, so that neighbours join and a spike of one step is a spike.
          xs[2 * i] = xs[2 * i + 1] = x;
          ys[2 * i] = i % 2 ? high[i] : low[i];
          ys[2 * i + 1] = i % 2 ? low[i] : high[i];
        } else {
          xs[i] = x;
          ys[i] = low[i];
        }
        if (low[i] < bottom) bottom = low[i];
        if (high[i] > top) top = high[i];
      }
      data.xs.push(xs);
      data.ys.push(ys);
      data.colour.push(look[0]);
      data.dash.push(span > 1 ? [] : look[1]);
      data.width.push(span > 1 ? 1 : 1.8);
    }
    if (!(top >= bottom)) [bottom, top] = [0, 1];
    const pad = (top - bottom || Math.abs(top) || 1) * 0.06;
    views.model(`${name}-rows`).setv({ start: bottom - pad, end: top + pad });
    views.model(`${name}-curves`).data = data;
  }

  // A frame around the chosen unit's row.
  frame() {
    const { views } = this;
    const place = views.places.get(views.now.unit);
    const row = views.layer.units - 1 - place;
    for (const map of unrolled.Views.MAPS) {
      if (views.shown[map] === null) continue;
      views.model(`${map}-chosen`).data = { left: [0], right: [views.length], bottom: [row], top: [row + 1], colour: [unrolled.scheme.now() === "dark" ? "#f3f4f6" : "#111827"] };
      views.model(`${map}-axis`).major_label_overrides = new Map([[row + 0.5, `unit ${views.now.unit}`]]);
      views.model(`${map}-ticks`).ticks = [row + 0.5];
    }
  }
};
