"use strict";
// Shows the excerpts that are embedded in this page, one at a time.
(async () => {
  const excerpts = JSON.parse(document.getElementById("inside-data").textContent);
  if (excerpts.length === 0) return;
  const views = await unrolled.open();
  unrolled.keys(views);
  const stores = excerpts.map((excerpt) => new unrolled.Embedded(excerpt));
  const pick = document.getElementById("pick-excerpt");
  unrolled.words.options(pick, stores.map((store, index) => [String(index), store.about.title]), "0");
  pick.closest("label").hidden = stores.length < 2;
  pick.addEventListener("change", (event) => views.use(stores[Number(event.target.value)]));
  await views.use(stores[0]);
})();
