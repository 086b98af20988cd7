"use strict";
globalThis.unrolled ??= {};
// A study's claims: what came out, in which setting, and the plots it rests on.
unrolled.claims = async (server, place) => {
  const { make } = unrolled.words;
  const running = make("div", { className: "running" });
  place.replaceChildren(running);
  const claims = await unrolled.running(running)("judging the study's claims", (options) => server.job("claims", {}, options));
  if (claims === null) return;
  const svg = (name) => {
    const holder = make("span");
    holder.innerHTML = '<svg class="shape" viewBox="0 0 16 16" aria-hidden="true"><use></use></svg>';
    holder.querySelector("use").setAttribute("href", `#shape-${name}`);
    return holder.firstChild;
  };
  const badge = (verdict) => make("span", { className: `badge ${verdict.shape}` }, svg(verdict.shape), verdict.word);
  const table = (className, columns, rows) => make("div", { className: "wide" }, make("table", { className }, make("thead", {}, make("tr", {}, ...columns.map((name) => make("th", { scope: "col" }, name)))), make("tbody", {}, ...rows)));
  const figures = [];
  const sections = claims.map((claim, index) => {
    const panels = claim.panels.map((item) => unrolled.plotted(item));
    figures.push(panels);
    const details = make("details", { className: "claim" });
    const summary = make("summary", {}, make("span", { className: "count" }, String(index + 1)), make("span", { className: "text" }, claim.text), badge(claim.verdict));
    const rows = claim.findings.map((f) => make("tr", {}, ...[make("code", {}, f.setting), f.statement, make("span", { className: "figure" }, `${f.figure} ${f.unit}`, make("span", { className: "small" }, ` ${f.seeds}`)), f.threshold, badge(f.verdict)].map((content) => make("td", {}, content))));
    details.append(
      summary,
      make("p", { className: "how" }, claim.how),
      table("findings", ["Setting", "True if the figure is above the threshold", "Figure (95 % interval)", "Threshold", "Verdict"], rows),
      make("div", { className: "panels" }, ...panels),
      ...claim.tables.flatMap((one) => [make("h4", {}, one.title), table("figures", one.columns, one.rows.map((row) => make("tr", {}, ...row.map((text) => make("td", {}, text)))))]),
      make("ul", { className: "remarks" }, ...claim.remarks.map((text) => make("li", {}, text))),
    );
    // A plot has no size to be drawn in before it is seen.
    let drawn = false;
    details.addEventListener("toggle", async () => {
      if (drawn || !details.open) return;
      drawn = true;
      for (const panel of panels) await panel.embed();
    });
    return details;
  });
  place.replaceChildren(...sections);
};
