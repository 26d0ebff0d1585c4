// RotaryDial: pairs of a query and a key turn with their positions.

const DIAL_EDGE = 1.35; // where the longest hand is 1
const LETTER = 0.15; // from a hand's tip, ahead and to one side, to its letter
const CURVE = { width: 360, height: 150, left: 40, right: 8, top: 10, low: 30 };

/** Pair i of `x`, the numbers i and i + D / 2, turned by `angle`. */
function turnedPair(x, i, angle) {
  const [first, second] = [x[i], x[i + x.length / 2]];
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  return [first * cos - second * sin, second * cos + first * sin];
}

/** Both hands of every pair, and what each adds to the product. */
function turnedPairs(data, query, key) {
  return data.speeds.map((speed, i) => {
    const q = turnedPair(data.query, i, query * speed);
    const k = turnedPair(data.key, i, key * speed);
    return { q, k, product: q[0] * k[0] + q[1] * k[1] };
  });
}

function sumOf(pairs) {
  return pairs.reduce((total, pair) => total + pair.product, 0);
}

/** Three places, with a minus that is as wide as a digit. */
function signed(value, digits = 3) {
  return value.toFixed(digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "−");
}

/** Two digits that fit beside an axis: 1.8, 0.025, 1.1M. */
function brief(value) {
  const form = { notation: "compact", maximumSignificantDigits: 2 };
  return (value || 0).toLocaleString("en", form).replace("-", "−");
}

function degrees([x, y]) {
  return ((Math.atan2(y, x) * 180) / Math.PI + 360) % 360;
}

/** Where a hand points, in words. */
function pointing(pair) {
  const angle = degrees(pair).toFixed(0) % 360;
  return Math.hypot(...pair) ? `points to ${angle}°` : "is zero";
}

/** A hand that points to the right at first: a line, a head, a letter. */
function hand(kind, letter) {
  const start = shape("line", { class: `start ${kind}` });
  const line = shape("line", { class: `hand ${kind}` });
  const head = shape("path", { class: `head ${kind}`, d: "M0 0L-.2 .09V-.09Z" });
  const text = shape("text", { class: kind }, letter);
  const place = (node, [x, y]) => {
    node.setAttribute("x2", x);
    node.setAttribute("y2", -y);
  };
  return {
    nodes: [start, line, head, text],
    begin: (tip) => place(start, tip),
    point: (tip, side) => {
      const length = Math.hypot(...tip);
      const [far, beside] = [1, side].map(
        (way) => (way * LETTER) / Math.max(length, LETTER));
      head.setAttribute("visibility", length ? "visible" : "hidden");
      place(line, tip.map((v) => v * Math.max(0, 1 - 0.15 / length) || 0));
      head.setAttribute("transform",
        `translate(${tip[0]} ${-tip[1]}) rotate(${-degrees(tip)})`);
      text.setAttribute("x", tip[0] + far * tip[0] - beside * tip[1]);
      text.setAttribute("y", -(tip[1] + far * tip[1] + beside * tip[0]));
    },
  };
}

/** The longest hand's length: what fills a dial. */
function longestHand(data) {
  const lengths = data.speeds.flatMap((_, i) => [data.query, data.key].map(
    (x) => Math.hypot(...turnedPair(x, i, 0))));
  return Math.max(...lengths);
}

/** One pair: its dial and its numbers. */
function dialCard(data, i) {
  const longest = longestHand(data);
  const scaled = (tip) => tip.map((v) => v / longest);
  const [q, k] = [hand("query", "q"), hand("key", "k")];
  q.begin(scaled(turnedPair(data.query, i, 0)));
  k.begin(scaled(turnedPair(data.key, i, 0)));
  const edge = DIAL_EDGE;
  const face = shape("svg",
    { viewBox: `${-edge} ${-edge} ${2 * edge} ${2 * edge}`, role: "img" },
    shape("circle", { class: "rim", r: 1 }), ...k.nodes, ...q.nodes);
  const turn = (data.speeds[i] * 180) / Math.PI;
  const lines = { q: element("p", { class: "query" }),
    k: element("p", { class: "key" }), product: element("p") };
  const node = element("div", { class: "dial" },
    element("p", { class: "name" }, data.names[i]),
    element("p", { class: "turn" }, `${signed(turn, 1)}° a token`),
    face, lines.q, lines.k, lines.product);
  const update = (pair) => {
    const turn = pair.k[0] * pair.q[1] - pair.k[1] * pair.q[0];
    const side = turn < 0 ? -1 : 1; // letters keep clear of each other
    q.point(scaled(pair.q), side);
    k.point(scaled(pair.k), -side);
    for (const [letter, name] of [["q", "query"], ["k", "key"]]) {
      const [x, y] = pair[letter].map((v) => signed(v));
      lines[letter].textContent = `${name} (${x}, ${y})`;
    }
    lines.product.replaceChildren("product ", element("data",
      { value: pair.product, class: "part" }, signed(pair.product)));
    face.setAttribute("aria-label", `${data.names[i]}: the query ${
      pointing(pair.q)}, the key ${pointing(pair.k)}`);
  };
  return { node, update };
}

/** The product at every distance: a curve, and a mark on it. */
function productCurve(data) {
  const last = data.positions - 1;
  const products = Array.from({ length: 2 * last + 1 }, (_, i) =>
    sumOf(turnedPairs(data, Math.max(i - last, 0), Math.max(last - i, 0))));
  const [low, high] = [Math.min(0, ...products), Math.max(0, ...products)];
  const { width, height, left, right, top, low: below } = CURVE;
  const x = (distance) =>
    left + ((distance + last) / (2 * last)) * (width - left - right);
  const y = (value) => height - below
    - ((value - low) / (high - low || 1)) * (height - top - below);
  const dots = products.map((value, i) =>
    shape("circle", { class: "dot", cx: x(i - last), cy: y(value), r: 1.3 }));
  const points = products.map((value, i) => `${x(i - last)},${y(value)}`);
  const mark = shape("circle", { class: "mark", r: 5 });
  const label = (at, text, anchor, place) => shape("text",
    { x: at, y: place, "text-anchor": anchor }, text);
  const axis = (from, to) => shape("line",
    { class: "zero", x1: from[0], y1: from[1], x2: to[0], y2: to[1] });
  const foot = height - below + 12;
  const svg = shape("svg",
    { class: "curve", viewBox: `0 0 ${width} ${height}`, role: "img" },
    axis([left, y(0)], [width - right, y(0)]), axis([x(0), top], [x(0), y(low)]),
    shape("polyline", { class: "line", points: points.join(" ") }), ...dots,
    mark, label(left - 4, brief(high), "end", y(high) + 4),
    label(left - 4, brief(low), "end", y(low) + 4),
    ...[-last, 0, last].map((d) =>
      label(x(d), signed(d, 0), d < 0 ? "start" : d ? "end" : "middle", foot)),
    label((left + width - right) / 2, "distance, query − key", "middle",
      height - 4));
  const update = (distance, product) => {
    mark.setAttribute("cx", x(distance));
    mark.setAttribute("cy", y(product));
    svg.setAttribute("aria-label", "The product by distance, from "
      + `${-last} to ${last}; marked: ${signed(product)} at ${distance}`);
  };
  return { svg, update, products };
}

/** A slider over positions; `chosen` is called with the new one. */
function positionSlider(label, kind, last, chosen) {
  const control = slider(0, last, 1);
  const output = element("output");
  control.dataset.moves = kind;
  control.addEventListener("input", () => chosen(Number(control.value)));
  const node = field(label, control, output);
  node.querySelector(".label").classList.add(kind);
  const update = (value, text, max = last) => {
    control.max = max;
    control.value = value;
    control.setAttribute("aria-valuetext", text);
    output.textContent = text;
  };
  return { node, update };
}

/** The query's position, the key's, and both at once. */
function positionSliders(data, state) {
  const last = data.positions - 1;
  const get = () => [state.get("query_position"), state.get("key_position")];
  const query = positionSlider("query at", "query", last, (value) =>
    state.set({ query_position: value }));
  const key = positionSlider("key at", "key", last, (value) =>
    state.set({ key_position: value }));
  const both = positionSlider("both", "both", last, (value) => {
    const [q, k] = get();
    const moved = value - Math.min(q, k);
    state.set({ query_position: q + moved, key_position: k + moved });
  });
  const update = () => {
    const [q, k] = get();
    query.update(q, String(q));
    key.update(k, String(k));
    both.update(Math.min(q, k), `${q}, ${k}`, last - Math.abs(q - k));
  };
  return { nodes: [query.node, key.node, both.node], update };
}

/** The product at each distance, as a table. */
function distanceTable(data, products) {
  const last = data.positions - 1;
  const rows = products.map((product, i) => tableRow(signed(i - last, 0),
    [element("data", { value: product }, signed(product))]));
  return tableOf(["Product by distance, query minus key"],
    ["distance", "product"], rows);
}

/** The sum in words: where the two stand, and what the dials add up to. */
function rotaryReadout(node, q, k, pairs, product) {
  const parts = pairs.map((pair) => signed(pair.product)).join(" + ");
  const sum = pairs.length > 1 ? `${parts.replaceAll("+ −", "− ")} = ` : "";
  node.replaceChildren(`distance ${signed(q - k, 0)}: product ${sum}`,
    element("data", { value: product, class: "product" }, signed(product)));
}

/** Build the figure in `root`; returns the function that redraws it. */
function drawRotary(root, data, state) {
  const sliders = positionSliders(data, state);
  const line = element("p", { class: "readout", role: "status" });
  const dials = data.speeds.map((_, i) => dialCard(data, i));
  const curve = productCurve(data);
  const more = element("details", {},
    element("summary", {}, "The product at every distance as a table"),
    distanceTable(data, curve.products));
  root.append(
    element("div", { class: "sliders positions" }, ...sliders.nodes), line,
    element("div", { class: "dials" }, ...dials.map(({ node }) => node),
      element("div", { class: "by-distance" },
        element("p", { class: "name" }, "product by distance"), curve.svg)),
    element("p", { class: "try" }, data.hint), more);

  return () => {
    const q = state.get("query_position");
    const k = state.get("key_position");
    const pairs = turnedPairs(data, q, k);
    const product = sumOf(pairs);
    sliders.update();
    dials.forEach((dial, i) => dial.update(pairs[i]));
    curve.update(q - k, product);
    rotaryReadout(line, q, k, pairs, product);
  };
}

const KIND = "rotary";
const NAMES = ["query_position", "key_position"];
const DRAW = drawRotary;
