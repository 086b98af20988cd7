"use strict";
globalThis.unrolled ??= {};
// The views with everything around them, once their plots are drawn.
unrolled.open = async () => {
  const item = JSON.parse(document.getElementById("views-model").textContent);
  const embedded = await Bokeh.embed.embed_item(item, document.getElementById("inside"));
  const views = new unrolled.Views(embedded.roots[0].model.document);
  unrolled.text(views);
  unrolled.following(views);
  unrolled.hover(views);
  return views;
};
