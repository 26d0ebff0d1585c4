// The time machine's other parts: samples, the sentence's losses, tables.

/** The weight of (moment, layer, head, query, key), or null: masked. */
function momentReader(data) {
  const { n_layer: L, n_head: H, tokens } = data;
  const size = (tokens.length * (tokens.length + 1)) / 2;
  const bytes = Uint8Array.from(atob(data.weights), (c) => c.charCodeAt(0));
  return (moment, layer, head, query, key) => {
    if (key > query) return null;
    const map = (moment * L + layer) * H + head;
    return bytes[map * size + (query * (query + 1)) / 2 + key] / 255;
  };
}

/** A heading of one part. */
function partName(...words) {
  return element("p", { class: "part-name" }, ...words);
}

/** All samples in one place, so that nothing moves when they change. */
function sampleBox(data) {
  const texts = data.samples.map((sample) =>
    element("p", {}, element("bdi", {}, sample || "(nothing)")));
  const node = element("div", { class: "samples" }, ...texts);
  const update = (moment) => texts.forEach((text, m) =>
    text.classList.toggle("shown", m === moment));
  return { node, update };
}

/** The sentence, over each token its probability, under it its loss. */
function readingCards(data) {
  const cards = data.tokens.slice(1).map((token) => {
    const bar = element("i");
    const loss = element("data", { class: "loss" });
    const node = element("li", {}, element("span",
      { class: "share", "aria-hidden": "true" }, bar), tokenName(token), loss);
    return { node, bar, loss };
  });
  const node = element("ol", { class: "reading" },
    ...cards.map((card) => card.node));
  const update = (moment) => cards.forEach(({ bar, loss }, i) => {
    const nats = data.losses[moment][i];
    bar.style.height = `${100 * Math.exp(-nats)}%`;
    loss.value = nats;
    loss.textContent = nats.toFixed(2);
  });
  return { node, update };
}

function mean(values) {
  return values.reduce((total, value) => total + value, 0) / values.length;
}

/** The sentence under the curve: when, and how good. */
function timeReadout(node, data, moment) {
  const nats = (value, name) =>
    element("data", { value, class: name }, value.toFixed(2));
  node.replaceChildren(element("span", {}, "After ",
    element("b", {}, steps(data.steps[moment])), " steps: training loss ",
    nats(data.at[moment], "curve"), ", the sentence below ",
    nats(mean(data.losses[moment]), "mean"), " nats a token"));
}

/** Every number of the figure but the weights: a row for each moment. */
function lossTable(data) {
  const rows = data.steps.map((count, m) => tableRow(steps(count),
    [data.at[m], ...data.losses[m]].map((loss) => loss.toFixed(2))));
  const names = data.tokens.slice(1).map((token) => tokenName(token));
  return tableOf(["Loss in nats by step: in training, then of each token"],
    ["step", "training", ...names], rows);
}

/** What the model wrote at each moment. */
function sampleTable(data) {
  const rows = data.steps.map((count, m) => tableRow(steps(count),
    [element("bdi", {}, data.samples[m])]));
  const table = tableOf(["Samples by step"], ["step", "sample"], rows);
  table.classList.add("written");
  return table;
}

/** The chosen query's weights at every moment. */
function queryTable(data, weight, { layer, head, query }) {
  const keys = data.tokens.slice(0, query + 1);
  const rows = data.steps.map((count, m) => tableRow(steps(count),
    keys.map((_, key) => weight(m, layer, head, query, key).toFixed(2))));
  return tableOf([`Weights by step in layer ${layer}, head ${head}, of `,
    tokenName(data.tokens[query])],
  ["step", ...keys.map((token) => tokenName(token))], rows);
}

/** The state as a part of the address, and back. */
function timeCodec(data, state) {
  const T = data.tokens.length;
  const limits = { layer: data.n_layer, head: data.n_head, row: T, col: T };
  const traits = { layer: "layer", head: "head", row: "query", col: "key" };
  const start = { step: state.get("step") };
  for (const name of Object.values(traits)) start[name] = state.get(name);
  const write = (state) => [`step${state.get("step")}`,
    ...Object.entries(traits).map(([name, trait]) => name + state.get(trait)),
  ].join(".");
  const read = (text) => {
    const found = { ...start };
    for (const part of text.split(".")) {
      const [, name, digits] = part.match(/^([a-z]+)(\d{1,9})$/) ?? [];
      const value = Number(digits);
      if (name === "step" && data.steps.includes(value)) found.step = value;
      if (value < limits[name]) found[traits[name]] = value;
    }
    return found;
  };
  const place = (text) => text.replace(/\.?(step|row|col)\d+/g, "");
  return { write, read, place };
}
