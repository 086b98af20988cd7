"use strict";
globalThis.unrolled ??= {};
// Asks the server. Quick methods answer at once; slow ones are jobs that tell how far they are and can be stopped.
unrolled.Server = class {
  constructor() {
    this.view = Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(36)).join("");
    this.serial = 0;
  }

  async send(method, asked) {
    let answer;
    try {
      answer = await fetch(`api/${method}`, {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-View": this.view, "X-Serial": String(++this.serial) },
        body: JSON.stringify(asked),
      });
    } catch {
      throw new Error("the viewer's server does not answer; start it again with unrolled view");
    }
    if (answer.ok) return unpack(await answer.arrayBuffer());
    let message = `the server answered ${answer.status}`;
    try {
      message = (await answer.json()).error ?? message;
    } catch {
      // It is not JSON: the status says what there is to say.
    }
    throw Object.assign(new Error(message), { status: answer.status });
  }

  // A slow method. `tell` gets {state, done, of, seconds}; when `signal` is aborted the job is cancelled.
  async job(method, asked, { tell = () => {}, signal = null } = {}) {
    const { job } = await this.send(method, asked);
    signal?.addEventListener("abort", () => this.send("cancel", { job }).catch(() => {}));
    for (let wait = 30; ; wait = Math.min(wait * 1.5, 400)) {
      const progress = await this.send("progress", { job });
      tell(progress);
      if (progress.state === "done" || progress.state === "failed") return this.send("result", { job });
      if (signal?.aborted) throw Object.assign(new Error("stopped"), { stopped: true });
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
};

// Answers about one recording of the server, as the views ask for them.
unrolled.Served = class {
  constructor(server, about, network) {
    this.server = server;
    this.about = about;
    this.network = network;
    for (const method of ["window", "unit", "track", "text", "exact", "find", "follows", "order", "suggested", "units_on", "selected", "instruments"]) {
      this[method] = (asked) => server.send(method, { ...asked, network });
    }
    for (const method of ["matches", "agreement", "followers", "gradient", "effect", "measure"]) {
      this[method] = (asked, options) => server.job(method, { ...asked, network }, options);
    }
  }
};

// Runs one slow thing at a time in a part of the page: a bar, how long it takes, and a button to stop it.
unrolled.running = (place) => {
  const { make } = unrolled.words;
  let controller = null;
  return async (what, work) => {
    controller?.abort();
    const mine = (controller = new AbortController());
    const bar = make("progress", { max: 1 });
    bar.setAttribute("aria-label", what);
    const note = make("span", { className: "small" }, `${what}\u2026`);
    const stop = make("button", { type: "button", className: "button" }, "stop");
    stop.addEventListener("click", () => mine.abort());
    place.replaceChildren(bar, note, stop);
    place.hidden = false;
    const tell = ({ state, done, of, seconds }) => {
      if (of > 1 || done > 0) bar.value = of > 0 ? done / of : 0;
      else bar.removeAttribute("value");
      note.textContent = state === "waiting" ? `${what}: waits for what runs before it` : `${what}: ${of > 1 ? `${done} of ${of}, ` : ""}${Math.round(seconds)} s`;
    };
    try {
      const found = await work({ tell, signal: mine.signal });
      if (controller === mine) place.hidden = true;
      return found;
    } catch (error) {
      if (controller === mine) {
        place.replaceChildren(make("span", { className: error.stopped || mine.signal.aborted ? "small" : "wrong", role: "alert" }, mine.signal.aborted ? "Stopped." : error.message));
      }
      return null;
    }
  };
};
