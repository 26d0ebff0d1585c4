// What the interactive figures share: elements, state, theme, mounting.
// No imports: the Python side puts this file before the figure's own.

const NARROW = 14; // pixels: the smallest cell that a finger still finds

/** An element with attributes, text and children; text is never markup. */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** An SVG element with attributes and children. */
function shape(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    node.setAttribute(name, String(value));
  }
  node.append(...children);
  return node;
}

/** A table row; the first entry is its head. */
function tableRow(first, cells, attributes = {}) {
  return element("tr", attributes, element("th", { scope: "row" }, first),
    ...cells.map((cell) => element("td", {}, cell)));
}

/** A table with a caption and the names of its columns. */
function tableOf(caption, names, rows, foot = []) {
  return element("table", {}, element("caption", {}, ...caption),
    element("thead", {}, element("tr", {}, ...names.map((name) => name
      ? element("th", { scope: "col" }, name) : element("td")))),
    element("tbody", {}, ...rows), element("tfoot", {}, ...foot));
}

/** Base64 of little-endian numbers: "Float32", or "Int32". */
function unpacked(text, kind = "Float32") {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const Numbers = { Float32: Float32Array, Int32: Int32Array }[kind];
  return Numbers.from({ length: bytes.length / 4 }, (_, i) =>
    view[`get${kind}`](4 * i, true));
}

/** A weight or probability with `digits` places; tiny ones as 1.23e-7. */
function number(value, digits = 6) {
  if (value === 0 || value >= 0.5 * 10 ** -digits * 100) {
    return value.toFixed(digits);
  }
  return value.toExponential(2);
}

/** Values that the reader chooses, where no Python is listening. */
class LocalState {
  constructor(values) {
    this.values = { ...values };
    this.listeners = [];
  }
  get(name) {
    return this.values[name];
  }
  set(changes) {
    Object.assign(this.values, changes);
    for (const listener of this.listeners) listener();
  }
  listen(listener) {
    this.listeners.push(listener);
    return () => {
      this.listeners = this.listeners.filter((other) => other !== listener);
    };
  }
}

/** The same interface over an anywidget model, shared with Python. */
class ModelState {
  constructor(model, names) {
    this.model = model;
    this.names = names;
  }
  get(name) {
    return this.model.get(name);
  }
  set(changes) {
    for (const [name, value] of Object.entries(changes)) {
      this.model.set(name, value);
    }
    this.model.save_changes();
  }
  listen(listener) {
    const events = this.names.map((name) => `change:${name}`);
    for (const event of events) this.model.on(event, listener);
    return () => {
      for (const event of events) this.model.off(event, listener);
    };
  }
}

/** Calls of `draw` in one frame become one call. */
function oncePerFrame(draw) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  };
}

/** "light" or "dark": the site's word, JupyterLab's, or the system's. */
function currentTheme() {
  if (matchMedia("print").matches) return "light";
  const site = document.documentElement.dataset.theme;
  if (site === "light" || site === "dark") return site;
  const lab = document.body.dataset.jpThemeLight;
  if (lab) return lab === "false" ? "dark" : "light";
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  return dark ? "dark" : "light";
}

/** Keep `root`'s theme the page's; returns how to stop. */
function followTheme(root) {
  const update = () => root.setAttribute("data-theme", currentTheme());
  const observer = new MutationObserver(update);
  const attributeFilter = ["data-theme", "data-jp-theme-light"];
  for (const node of [document.documentElement, document.body]) {
    observer.observe(node, { attributes: true, attributeFilter });
  }
  const media = ["print", "(prefers-color-scheme: dark)"].map(matchMedia);
  for (const query of media) query.addEventListener("change", update);
  update();
  return () => {
    observer.disconnect();
    for (const query of media) query.removeEventListener("change", update);
  };
}

/** A labelled control, its value beside it. */
function field(label, control, output = null) {
  const name = element("span", { class: "label" }, label);
  return element("label", { class: "field" }, name, control, output);
}

/** A <select> of `names`; calls `chosen` with the index. */
function select(names, chosen) {
  const options = names.map((name, i) =>
    element("option", { value: i }, String(name)),
  );
  const control = element("select", {}, ...options);
  control.addEventListener("change", () => chosen(Number(control.value)));
  return control;
}

/** An `<input type="range">`. */
function slider(min, max, step) {
  return element("input", { type: "range", min, max, step });
}

function button(text, pressed) {
  const node = element("button", { type: "button" }, text);
  node.addEventListener("click", pressed);
  return node;
}

/** Draw one figure below `host`; returns a function that takes it away. */
function mount(host, draw, data, state) {
  const outer = element("div", { "data-lm-suppress-shortcuts": "true" });
  host.append(outer);
  const shadow = outer.attachShadow({ mode: "open" });
  const root = element("div", {
    class: "root", role: "group", "aria-label": data.alt,
  });
  shadow.append(element("style", {}, data.css), root);
  root.classList.toggle("boxed", "jpThemeLight" in document.body.dataset);
  const stops = [followTheme(root)];
  const update = oncePerFrame(draw(root, data, state, stops));
  stops.push(state.listen(update));
  update();
  return () => {
    for (const stop of stops) stop();
    outer.remove();
  };
}

/** Every figure of this kind on the page that nobody has drawn yet. */
function mountAll(kind, draw) {
  const waiting = `[data-llmbook="${kind}"]:not([data-drawn])`;
  for (const host of document.querySelectorAll(waiting)) {
    host.setAttribute("data-drawn", "");
    const data = JSON.parse(host.querySelector("script").textContent);
    for (const picture of host.querySelectorAll("img")) picture.remove();
    // Only the picture needed the light paper that a bare page lends it.
    const figure = host.closest("figure.llm-figure[style]");
    if (figure) Object.assign(figure.style, { background: "", color: "" });
    mount(host, draw, data, new LocalState(data.state));
  }
}
