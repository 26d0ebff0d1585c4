// A figure's state in the page's address, so that a view can be linked to,
// reloaded, and left with the back button.

const WAIT = 250; // milliseconds before small steps are written: browsers
// refuse an address that changes with every repeat of a key
const STAMP = "llmbook"; // the figures' place in the history's own state

/** The figures' parts of an address: "#one=…&other=…" as a Map. */
function addressParts(hash) {
  const wanted = /^([a-z][a-z0-9-]*)=([a-z0-9.-]*)$/;
  const found = hash.replace(/^#/, "").split("&").map((p) => p.match(wanted));
  return new Map(found.filter(Boolean).map(([, name, text]) => [name, text]));
}

/** The address with one part changed. */
function addressWith(name, text) {
  const parts = addressParts(location.hash).set(name, text);
  return `#${[...parts].map((part) => part.join("=")).join("&")}`;
}

/** `name`, numbered when another figure of the page has taken it. */
function ownName(host, name) {
  let own = name;
  for (let n = 2; document.querySelector(`[data-address="${own}"]`); n++) {
    own = `${name}-${n}`;
  }
  host.setAttribute("data-address", own);
  return own;
}

/** Bring a figure that an address names to the reader, once all is set. */
function reveal(host) {
  const given = new AbortController(); // the reader has scrolled: leave it
  const { signal } = given;
  for (const kind of ["wheel", "touchstart", "keydown", "pointerdown"]) {
    addEventListener(kind, () => given.abort(), { signal, passive: true });
  }
  const show = () => {
    if (!signal.aborted) host.scrollIntoView({ behavior: "instant" });
  };
  const settled = async () => {
    show();
    await window.MathJax?.startup?.promise; // formulas move what is below
    show();
    given.abort();
  };
  if (document.readyState === "complete") settled();
  else addEventListener("load", settled, { once: true });
}

/**
 * Keep `state` and the page's address in step.
 *
 * `codec.write(state)` gives the state as text, `codec.read(text)` the
 * changes that a text asks for, and `codec.place(text)` leaves out what is
 * no step of its own: the back button passes over it.
 * Returns a function that gives the address of the present view.
 */
function keepInAddress(host, name, state, codec, stops) {
  const own = ownName(host, name);
  const first = codec.write(state);
  let written = first; // what the address, or its lack, stands for
  let pending = null; // a small step that is still to be written
  let timer = null;
  let restoring = false;

  const stamped = (text) => ({
    ...history.state, [STAMP]: { ...history.state?.[STAMP], [own]: text },
  });
  const put = (change) => {
    try {
      change();
    } catch { /* a frame without an address of its own: do without */ }
  };
  const flush = () => {
    clearTimeout(timer);
    if (pending === null) return;
    written = pending;
    pending = null;
    put(() =>
      history.replaceState(stamped(written), "", addressWith(own, written)));
  };
  const step = (text) => {
    flush();
    put(() => {
      history.replaceState(stamped(written), ""); // what "back" returns to
      history.pushState(stamped(text), "", addressWith(own, text));
    });
    written = text;
  };
  const follow = () => {
    if (restoring) return;
    const text = codec.write(state);
    if (codec.place(text) !== codec.place(pending ?? written)) {
      return step(text);
    }
    pending = text === written ? null : text;
    clearTimeout(timer);
    if (pending !== null) timer = setTimeout(flush, WAIT);
  };
  const restore = () => {
    const parts = addressParts(location.hash);
    const stamps = history.state?.[STAMP];
    if (!parts.size && !stamps) return; // the address of a heading
    clearTimeout(timer);
    pending = null;
    restoring = true;
    state.set(codec.read(parts.get(own) ?? stamps?.[own] ?? first));
    restoring = false;
    written = codec.write(state);
  };

  restore();
  if ([...addressParts(location.hash).keys()][0] === own) reveal(host);
  addEventListener("popstate", restore);
  stops.push(state.listen(follow), flush,
    () => removeEventListener("popstate", restore));
  return () => addressWith(own, codec.write(state));
}
