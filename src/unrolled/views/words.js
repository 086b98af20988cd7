"use strict";
globalThis.unrolled ??= {};
// How names, figures and characters read on the page.
unrolled.words = (() => {
  const spoken = (name) => name.replaceAll("_", " ");
  const count = (value) => Math.round(value).toLocaleString("en-US");

  function figure(value, places = 2) {
    if (value === null || value === undefined) return "\u2013";
    if (Number.isNaN(value)) return "not a number";
    if (!Number.isFinite(value)) return value > 0 ? "infinite" : "minus infinity";
    const size = Math.abs(value);
    const text = size !== 0 && (size < 10 ** -places / 2 || size >= 1e6) ? value.toExponential(2) : value.toFixed(places);
    return text.replace("-", "\u2212");
  }

  // A character that can be seen.
  function visible(character) {
    const code = character.codePointAt(0);
    if (character === "\n") return "\u21b5";
    if (character === "\t") return "\u2192";
    if (character === " ") return "\u00b7";
    if (code < 32) return String.fromCodePoint(0x2400 + code);
    if (code === 127) return "\u2421";
    // Marks that would change the direction or the shape of what stands beside them.
    if (/[\u0300-\u036f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]/u.test(character)) return "\u25a1";
    return character;
  }

  // Colours of the states, each with a dash of its own: told apart in colour blindness, on a dark ground and on a light one.
  const LOOKS = {
    cell: ["#2f7fc0", []],
    hidden: ["#d97706", []],
    forget_gate: ["#8b95a1", [6, 3]],
    input_gate: ["#9b72cf", [2, 3]],
    output_gate: ["#b5838d", [9, 3, 2, 3]],
    candidate: ["#2a9d8f", [12, 4]],
    update_gate: ["#8b95a1", [6, 3]],
    reset_gate: ["#9b72cf", [2, 3]],
  };
  const SPARE = ["#2f7fc0", "#d97706", "#9b72cf", "#8b95a1", "#2a9d8f", "#b5838d"];
  const DASHES = [[], [6, 3], [2, 3], [12, 4], [9, 3, 2, 3]];
  const look = (state, index = 0) => LOOKS[state] ?? [SPARE[index % SPARE.length], DASHES[(index + Math.floor(index / SPARE.length)) % DASHES.length]];

  // A piece of a line as a legend shows it.
  function line([colour, dash], width = 2, alpha = 1) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 34 12");
    svg.setAttribute("aria-hidden", "true");
    const drawn = document.createElementNS("http://www.w3.org/2000/svg", "line");
    const set = { x1: 1, y1: 6, x2: 33, y2: 6, stroke: colour, "stroke-width": width, "stroke-opacity": alpha, "stroke-dasharray": Array.isArray(dash) ? dash.join(" ") : dash };
    for (const [name, value] of Object.entries(set)) drawn.setAttribute(name, value);
    svg.append(drawn);
    return svg;
  }

  // Plain characters of a string, as the network reads them: by code points.
  const characters = (text) => Array.from(text);

  function ink(background) {
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(background.slice(i, i + 2), 16) / 255);
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b) > 0.19 ? "#111827" : "#ffffff";
  }

  function options(select, entries, chosen) {
    select.replaceChildren(...entries.map(([key, text]) => new Option(text, key, key === chosen, key === chosen)));
  }

  // An element with text or children in it; text is never read as markup.
  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name === "dataset") Object.assign(element.dataset, value);
      else if (name.startsWith("aria-") || name === "role" || name === "scope") element.setAttribute(name, value);
      else element[name] = value;
    }
    element.append(...children);
    return element;
  }

  return { spoken, count, figure, visible, look, line, characters, ink, options, make };
})();
