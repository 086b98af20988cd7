"use strict";
globalThis.unrolled ??= {};
// Tabs as they are used by keyboard: arrow keys move between them, and one of them shows its panel.
unrolled.tabs = (opened) => {
  const tabs = Array.from(document.querySelectorAll("[role=tab]"));
  const name = (tab) => tab.id.replace("tab-", "");
  let now = tabs[0];
  function choose(tab) {
    now = tab;
    for (const one of tabs) {
      const chosen = one === tab;
      one.setAttribute("aria-selected", String(chosen));
      one.tabIndex = chosen ? 0 : -1;
      document.getElementById(one.getAttribute("aria-controls")).hidden = !chosen;
    }
    opened(name(tab));
  }
  for (const tab of tabs) {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by === undefined) return;
      const next = tabs[(tabs.indexOf(tab) + by + tabs.length) % tabs.length];
      next.focus();
      choose(next);
    });
  }
  choose(tabs[0]);
  return { now: () => name(now), choose: (which) => choose(document.getElementById(`tab-${which}`)) };
};
