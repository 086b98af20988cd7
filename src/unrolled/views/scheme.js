"use strict";
globalThis.unrolled ??= {};
// Dark or light: what the reader chose, else what the system asks for. Style sheets and plots read it from the root element.
unrolled.scheme = (() => {
  const asked = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    // A page that is opened from a file may not be allowed to store anything.
    try {
      return localStorage.getItem("unrolled-scheme");
    } catch {
      return null;
    }
  };
  let chosen = stored();
  const listeners = [];
  const now = () => chosen ?? (asked.matches ? "dark" : "light");
  function apply() {
    document.documentElement.dataset.scheme = now();
    for (const listener of listeners) listener(now());
  }
  function toggle() {
    chosen = now() === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("unrolled-scheme", chosen);
    } catch {
      // It holds for this visit.
    }
    apply();
  }
  asked.addEventListener("change", apply);
  apply();
  addEventListener("DOMContentLoaded", () => {
    for (const button of document.querySelectorAll("[data-toggle-scheme]")) button.addEventListener("click", toggle);
  });
  return { now, toggle, on: (listener) => listeners.push(listener) };
})();
