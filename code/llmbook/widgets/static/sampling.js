// SamplingExplorer: how temperature and filters reshape a distribution.

const WORD = 2 ** 32; // mulberry32 computes in unsigned 32-bit integers
const MORE = 20; // candidates that one press of "show more" adds
const MARKS = [0.02, 0.05, 0.1, 0.2, 0.5, 1]; // where the bars' axis may end

/** Numbers in [0, 1): mulberry32, as llmbook.widgets.draws writes it. */
function uniforms(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / WORD;
  };
}

/** exp(logit) over their sum, in float64; -Infinity becomes 0. */
function softmax(logits, order) {
  const most = logits[order[0]];
  const powers = new Float64Array(logits.length);
  let sum = 0;
  for (const id of order) sum += powers[id] = Math.exp(logits[id] - most);
  return powers.map((power) => power / sum);
}

/** Ids from the highest logit to the lowest; of equals the lower id first. */
function ranking(logits, start = null) {
  const compare = (a, b) => logits[b] - logits[a] || a - b;
  const order = start ?? Array.from(logits, (_, id) => id);
  const sorted = order.every((id, i) => !i || compare(order[i - 1], id) < 0);
  return sorted ? order : order.slice().sort(compare);
}

/** Take out of `logits` what `drop` names; note which filter it was. */
function remove(logits, order, fate, name, drop) {
  order.forEach((id, rank) => {
    if (logits[id] === -Infinity || !drop(id, rank)) return;
    logits[id] = -Infinity;
    fate[id] = name;
  });
}

/** Ids beyond the p of probability, counted from the most likely. */
function beyond(probabilities, order, p) {
  const late = new Set();
  let sum = 0;
  for (const id of order) {
    sum += probabilities[id];
    if (sum - probabilities[id] >= p) late.add(id);
  }
  return late;
}

/** What llmbook.sampling.filtered does: the same steps, the same edges. */
function filtered(logits, ranked, { temperature, top_k, top_p, min_p }) {
  const fate = new Array(logits.length).fill(null);
  const divisor = Math.fround(temperature);
  const left = logits.map((x) => Math.fround(x / divisor));
  const order = ranking(left, ranked);
  if (top_k > 0 && top_k < logits.length) {
    const least = left[order[top_k - 1]];
    remove(left, order, fate, "top-k", (id) => left[id] < least);
  }
  if (top_p < 1) {
    const late = beyond(softmax(left, order), order, top_p);
    remove(left, order, fate, "top-p", (id) => late.has(id));
  }
  if (min_p > 0) {
    const p = softmax(left, order);
    const bar = min_p * p[order[0]];
    remove(left, order, fate, "min-p", (id) => p[id] < bar);
  }
  return { order, fate, probabilities: softmax(left, order) };
}

/** The distribution that is drawn from, greedy at temperature 0. */
function distribution(logits, ranked, choices) {
  if (choices.temperature > 0) return filtered(logits, ranked, choices);
  const probabilities = new Float64Array(logits.length);
  probabilities[ranked[0]] = 1;
  const fate = new Array(logits.length).fill("greedy");
  fate[ranked[0]] = null;
  return { order: ranked, fate, probabilities };
}

/** `n` ids drawn; each kept id owns a share of the interval, in order. */
function draw({ order, probabilities }, n, seed) {
  const kept = order.filter((id) => probabilities[id] > 0);
  let sum = 0;
  const ends = kept.map((id) => (sum += probabilities[id]));
  const next = uniforms(seed);
  return Array.from({ length: n }, () => {
    const u = next() * sum;
    let [low, high] = [0, kept.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (ends[middle] > u) high = middle;
      else low = middle + 1;
    }
    return kept[low];
  });
}

/** Slider positions for top-k: fine at first, then coarse, at last all. */
function topKSteps(V) {
  const steps = [];
  for (let k = 1; k < V; k += k < 20 ? 1 : 10 ** Math.floor(Math.log10(k))) {
    steps.push(k);
  }
  return [...steps, 0];
}

/** The four sliders, each with its value beside it. */
function sliders(V, state) {
  const steps = topKSteps(V);
  const nearest = (k) => {
    const place = steps.findIndex((step) => step >= k);
    return k < 1 || place < 0 ? steps.length - 1 : place;
  };
  const rows = {
    temperature: ["temperature", slider(0, 2, 0.05), (x) =>
      x > 0 ? x.toFixed(2) : "greedy"],
    top_k: ["top-k", slider(0, steps.length - 1, 1), (k) =>
      k > 0 && k < V ? String(k) : "off"],
    top_p: ["top-p", slider(0.01, 1, 0.01), (x) =>
      x < 1 ? x.toFixed(2) : "off"],
    min_p: ["min-p", slider(0, 1, 0.01), (x) =>
      x > 0 ? x.toFixed(2) : "off"],
  };
  return Object.entries(rows).map(([name, [label, control, text]]) => {
    const output = element("output");
    const update = () => {
      const value = state.get(name);
      const place = name === "top_k" ? nearest(value) : value;
      if (Number(control.value) !== place) control.value = place;
      output.textContent = text(value);
      control.setAttribute("aria-valuetext", text(value));
    };
    control.addEventListener("input", () => {
      const place = Number(control.value);
      state.set({ [name]: name === "top_k" ? steps[place] : place });
    });
    control.dataset.trait = name;
    return { node: field(label, control, output), update };
  });
}

/** One candidate: its row, and how to fill it. */
function candidateRow() {
  const cells = {
    token: element("th", { scope: "row" }),
    logit: element("td", { class: "amount" }),
    before: element("i", { class: "before" }),
    after: element("i", { class: "after" }),
    drawn: element("i", { class: "drawn" }),
    amount: element("td", { class: "amount" }),
    count: element("td", { class: "amount" }),
    fate: element("span", { class: "fate" }),
  };
  const bar = element("div", { class: "bar" },
    cells.before, cells.after, cells.drawn, cells.fate);
  const row = element("tr", {}, cells.token, cells.logit,
    element("td", {}, bar), cells.amount, cells.count);
  return { row, ...cells };
}

/** A number in a cell: rounded for the eye, whole in its value. */
function exact(node, value, text) {
  let inner = node.firstElementChild;
  if (!inner) node.append((inner = element("data")));
  inner.value = value;
  inner.textContent = text;
}

function fillRow(cells, item, end) {
  cells.row.className = item.rest ? "rest" : item.fate ? "cut" : "kept";
  cells.token.textContent = item.token;
  if (item.rest) cells.logit.textContent = "";
  else exact(cells.logit, item.logit, item.logit.toFixed(3));
  exact(cells.amount, item.after,
    item.after === 0 ? "0" : number(item.after, 4));
  exact(cells.count, item.drawn, item.n ? String(item.drawn) : "");
  const bars = [cells.before, cells.after, cells.drawn, cells.fate];
  for (const node of bars) node.hidden = item.rest;
  if (item.rest) return;
  const width = (share) => `${(100 * share) / end}%`;
  cells.before.style.width = width(item.before);
  cells.after.style.width = width(item.after);
  cells.drawn.hidden = !item.drawn;
  cells.drawn.style.left = width(item.n ? item.drawn / item.n : 0);
  cells.fate.textContent = item.fate ? `cut: ${item.fate}` : "";
  cells.fate.style.left = `min(${width(item.before)}, 100% - 4.8rem)`;
}

/** The candidates that are listed, and one line for all the others. */
function listed(view, count) {
  const { order, probabilities: after, before, fate, n, counts } = view;
  const items = order.slice(0, count).map((id) => ({
    token: view.label(id), logit: view.logits[id], before: before[id],
    after: after[id], drawn: counts.get(id) ?? 0, fate: fate[id], n,
  }));
  const others = order.slice(count);
  if (!others.length) return items;
  const sum = (value) => others.reduce((total, id) => total + value(id), 0);
  const rest = {
    token: `${others.length} others`, rest: true, n, fate: null,
    before: sum((id) => before[id]), after: sum((id) => after[id]),
    drawn: sum((id) => counts.get(id) ?? 0),
  };
  return [...items, rest];
}

/** What is kept, how much of the model's belief that is, how uncertain. */
function summary(view) {
  const { probabilities: p, before, n } = view;
  const kept = view.order.filter((id) => p[id] > 0);
  const sum = (value) => kept.reduce((total, id) => total + value(id), 0);
  const entropy = sum((id) => -p[id] * Math.log(p[id]));
  const share = (100 * sum((id) => before[id])).toFixed(1);
  return [
    element("data", { value: kept.length, class: "kept" },
      kept.length.toLocaleString("en")),
    ` of ${p.length.toLocaleString("en")} tokens kept; the model gives them `
    + `${share}\u00a0% of its probability. Entropy now `,
    element("data", { value: entropy, class: "entropy" },
      Math.max(entropy, 0).toFixed(3)),
    ` nats.${n ? ` ${n.toLocaleString("en")} draws.` : ""}`,
  ];
}

/** Headings, the bars' axis among them. */
function tableHead() {
  const end = element("span");
  const names = [
    ["token", ""], ["logit", "amount"], [null, ""],
    ["probability", "amount"], ["drawn", "amount"],
  ];
  const cells = names.map(([name, kind]) =>
    element("th", { scope: "col", class: kind },
      name ?? element("span", { class: "axis" }, "0", end)));
  return { head: element("thead", {}, element("tr", {}, ...cells)), end };
}

/** Seed, draw, reset. */
function drawControls(data, state) {
  const seed = element("input", { type: "number", min: 0, step: 1 });
  seed.addEventListener("change", () => {
    const value = Math.floor(Number(seed.value));
    const ok = value >= 0 && value < WORD;
    if (ok) state.set({ seed: value });
    else seed.value = state.get("seed");
  });
  const add = (count) => () =>
    state.set({ draws: Math.min(state.get("draws") + count, data.max_draws) });
  const node = element("div", { class: "draws" },
    button("Draw 1", add(1)), button("Draw 100", add(100)),
    button("Reset", () => state.set({ ...data.start })),
    field("Seed", seed));
  return { node, seed };
}

function legend() {
  const mark = (kind) => element("i", { class: kind });
  return element("p", { class: "legend" },
    mark("before"), "as the model gives it", mark("after"),
    "after temperature and filters", mark("drawn"), "share of the draws");
}

function samplingParts(root, data, state, more) {
  const context = select(data.contexts, (choice) => state.set({ choice }));
  const controls = sliders(data.tokens_total, state);
  const line = element("p", { class: "readout", role: "status" });
  const { head, end } = tableHead();
  const body = element("tbody");
  const drawing = drawControls(data, state);
  const last = element("p", { class: "last" });
  const rows = element("div", { class: "scroll" }, element(
    "table", { class: "candidates", "aria-label": "Candidates" }, head, body));
  const showMore = button("Show more candidates", more);
  showMore.className = "more";
  const several = data.contexts.length > 1;
  const given = element("p", { class: "context" },
    several ? field("Context", context) : data.contexts[0]);
  root.append(
    given, element("div", { class: "sliders" },
      ...controls.map((control) => control.node)),
    line, rows, legend(), showMore,
    drawing.node, last, element("p", { class: "try" }, data.hint));
  const { seed } = drawing;
  return { showMore, context, controls, line, body, end, last, seed };
}

/** The state's numbers, filtered and drawn: all that is shown. */
function sampleView(data, all, state) {
  const { logits, ranked, before } = all[state.get("choice")];
  const choices = Object.fromEntries(
    ["temperature", "top_k", "top_p", "min_p"].map((name) =>
      [name, state.get(name)]));
  const view = distribution(logits, ranked, choices);
  const n = state.get("draws");
  const drawn = draw(view, n, state.get("seed"));
  const counts = new Map();
  for (const id of drawn) counts.set(id, (counts.get(id) ?? 0) + 1);
  const label = (id) => data.tokens[id] ?? `token ${id}`;
  return { ...view, logits, before, n, drawn, counts, label };
}

/** Build the figure in `root`; returns the function that redraws it. */
function drawSampling(root, data, state) {
  const all = data.logits.map((text) => {
    const logits = unpacked(text);
    const ranked = ranking(logits);
    return { logits, ranked, before: softmax(logits, ranked) };
  });
  let shown = data.shown;
  const rows = [];
  const parts = samplingParts(root, data, state, () => {
    shown += MORE;
    update();
  });

  function update() {
    const view = sampleView(data, all, state);
    const items = listed(view, shown);
    const longest = Math.max(...items.filter((item) => !item.rest).flatMap(
      ({ before, after, drawn, n }) => [before, after, n ? drawn / n : 0]));
    const end = MARKS.find((mark) => mark >= longest) ?? 1;
    while (rows.length < items.length) rows.push(candidateRow());
    items.forEach((item, i) => fillRow(rows[i], item, end));
    const now = rows.slice(0, items.length).map(({ row }) => row);
    if (parts.body.childElementCount !== now.length) {
      parts.body.replaceChildren(...now);
    }
    parts.showMore.hidden = shown >= data.tokens_total;
    parts.end.textContent = String(end);
    for (const control of parts.controls) control.update();
    parts.context.value = state.get("choice");
    parts.seed.value = state.get("seed");
    parts.line.replaceChildren(...summary(view));
    parts.last.textContent = view.n
      ? `Last drawn: ${view.drawn.slice(-12).map(view.label).join("  ")}`
      : "";
  }

  return update;
}

const KIND = "sampling";
const NAMES = [
  "temperature", "top_k", "top_p", "min_p", "seed", "choice", "draws",
];
const DRAW = drawSampling;
