"use strict";
globalThis.unrolled ??= {};
// What stands under the pointer, with the recorded values themselves, not those that are drawn.
unrolled.hover = (views) => {
  const { spoken, figure, visible, count, characters } = unrolled.words;
  const tip = views.element("tip");
  const maps = views.element("maps");
  let pointer = { x: 0, y: 0, width: 0 };
  let busy = false;
  let wanted = null;

  maps.addEventListener("mousemove", (event) => {
    const box = maps.getBoundingClientRect();
    pointer = { x: event.clientX - box.left, y: event.clientY - box.top, width: box.width };
  }, true);
  maps.addEventListener("mouseleave", () => {
    wanted = null;
    tip.hidden = true;
  });

  function show(lines) {
    tip.textContent = lines.join("\n");
    tip.hidden = false;
    const left = pointer.x + 16 + tip.offsetWidth > pointer.width ? pointer.x - tip.offsetWidth - 12 : pointer.x + 16;
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${pointer.y + 14}px`;
  }

  // The columns and rows of the picture that stand at a place of it.
  function block(event, place) {
    const step = Math.floor(event.x);
    if (step < 0 || step >= views.length || views.drawn === undefined) return null;
    const { window, first } = views.drawn;
    const asked = { sequence: views.now.sequence, layer: views.layer.name, start: step, stop: step + 1, units: null, name: null };
    if (window.span > 1) {
      asked.start = window.start + Math.floor((step - window.start) / window.span) * window.span;
      asked.stop = Math.min(asked.start + window.span, views.length);
    }
    if (!unrolled.Views.MAPS.includes(place)) return asked;
    const at = views.layer.units - 1 - Math.floor(event.y);
    if (at < 0 || at >= views.layer.units) return null;
    const row = first + Math.floor((at - first) / window.group) * window.group;
    asked.units = views.order.slice(row, Math.min(row + window.group, views.layer.units));
    asked.name = views.named(views.shown[place]);
    return asked;
  }

  const steps = (a, b) => (b - a === 1 ? `step ${count(a)}` : `steps ${count(a)}\u2013${count(b - 1)}`);

  async function describe(asked) {
    const found = await views.store.exact(asked);
    const lines = [];
    const text = found.text === null || found.text === undefined ? "" : ` ${characters(found.text).slice(0, 40).map(visible).join("")}`;
    lines.push(steps(asked.start, asked.stop) + text);
    if (found.time) lines.push(found.time);
    for (const [name, value] of Object.entries(found.channels ?? {})) lines.push(`${name}: ${figure(value, 3)}`);
    if (asked.units !== null) {
      if (found.values) {
        lines.push(`unit ${asked.units[0]}`);
        for (const [name, value] of Object.entries(found.values)) lines.push(`${spoken(name)}: ${figure(value, 4)}`);
      } else {
        lines.push(asked.units.length === 1 ? `unit ${asked.units[0]}` : `units ${asked.units.slice(0, 6).join(", ")}${asked.units.length > 6 ? ", \u2026" : ""}`);
        lines.push(`lowest ${figure(found.low, 4)} (step ${count(found.low_at[0])}, unit ${found.low_at[1]})`);
        lines.push(`highest ${figure(found.high, 4)} (step ${count(found.high_at[0])}, unit ${found.high_at[1]})`);
      }
    }
    for (const [name, value] of Object.entries(found.labels ?? {})) lines.push(`${spoken(name)}: ${value}`);
    return lines;
  }

  async function ask() {
    if (busy) return;
    busy = true;
    try {
      while (wanted !== null) {
        const asked = wanted;
        wanted = null;
        const lines = await describe(asked);
        if (!maps.matches(":hover")) break;
        show(lines);
      }
    } catch (error) {
      show([error.message]);
    } finally {
      busy = false;
    }
  }

  for (const place of ["track", ...unrolled.Views.MAPS, "values"]) {
    views.model(place).on_event("mousemove", (event) => {
      wanted = block(event, place);
      if (wanted === null) tip.hidden = true;
      else ask();
    });
    views.model(place).on_event("mouseleave", () => {
      wanted = null;
      tip.hidden = true;
    });
  }
};
