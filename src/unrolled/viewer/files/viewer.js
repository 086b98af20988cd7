"use strict";
globalThis.unrolled ??= {};
// Starts the page: one recording, or a study whose networks are opened one at a time.
(async () => {
  const element = (id) => document.getElementById(id);
  const server = new unrolled.Server();
  const opening = unrolled.running(element("opening"));
  const overview = await server.send("overview", {}).catch((error) => {
    element("opening").textContent = error.message;
    return null;
  });
  if (overview === null) return;
  let begun = null;

  // Plots have to be seen when they are made: they take their size from the page.
  async function begin() {
    element("recording").hidden = false;
    const views = await unrolled.open();
    const finding = unrolled.finding(views);
    const replaying = unrolled.replaying(views, finding);
    const measuring = unrolled.measuring(views);
    unrolled.keys(views, [...finding.keys, ...replaying.keys]);
    const tabs = unrolled.tabs((name) => {
      if (name === "measuring") measuring.open();
    });
    return { views, measuring, tabs };
  }

  async function show(network) {
    const about = await opening(network === null ? "opening" : `opening ${overview.networks[network]}`, (options) => server.job("about", { network }, options));
    if (about === null) return;
    begun ??= begin();
    const { views, measuring, tabs } = await begun;
    element("recording-title").textContent = network === null ? "" : about.title;
    await views.use(new unrolled.Served(server, about, network));
    if (tabs.now() === "measuring") measuring.open();
  }

  if (overview.networks === null) {
    await show(null);
    return;
  }
  element("study").hidden = false;
  unrolled.claims(server, element("claims"));
  unrolled.words.options(element("pick-network"), [["", "choose a network"], ...overview.networks.map((title, index) => [String(index), title])], "");
  element("pick-network").addEventListener("change", (event) => {
    if (event.target.value !== "") show(Number(event.target.value));
  });
})();
