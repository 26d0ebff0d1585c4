// TimeMachine: drag the step of a training run, and everything follows.

const SMALL_MAP = 40; // pixels: a head's small map beside the large one
const BESIDE = 20; // pixels: the smallest cell of a map that stands beside

/** Who looks at whom, how much. */
function lookReadout(node, data, at, weight) {
  const { query, key } = at;
  const name = (kind, i) => tokenName(shortened(data.tokens[i]), kind);
  const value = weight(query, key);
  const words = value === null
    ? ["masked: ", name("key", key), " stands after ", name("query", query)]
    : [name("query", query), " looks at ", name("key", key), " with weight ",
      element("data", { value, class: "weight" }, value.toFixed(2))];
  node.replaceChildren(element("span", {}, ...words));
}

/** What the reader's hand does. */
function timeActions(data, state, redraw) {
  const act = { passing: null, focus: null };
  act.travel = (moment) => state.set({ step: data.steps[moment] });
  act.choose = (query, key) => {
    act.passing = null;
    if (query !== state.get("query") || key !== state.get("key")) {
      state.set({ query, key });
    } else redraw();
  };
  act.preview = (query, key) => {
    act.passing = query === null ? null : { query, key };
    redraw();
  };
  act.openHead = (layer, head, byKey) => {
    if (byKey) act.focus = "cell";
    state.set({ layer, head });
  };
  act.leaveMap = (event) => {
    event.preventDefault();
    act.focus = "head";
    redraw();
  };
  return act;
}

/** Tables of all that the figure shows, filled when they are opened. */
function timeTables(data) {
  const weights = element("div");
  const scroll = element("div", { class: "scroll tables", tabindex: 0,
    role: "region", "aria-label": "The figure’s numbers" },
  lossTable(data), weights, sampleTable(data));
  const node = element("details", {},
    element("summary", {}, "All steps as tables"), scroll);
  return { node, weights };
}

/** Everything that is seen, in its order. */
function timeParts(root, data, weight, act, live) {
  const road = travel(data, act.travel);
  const said = element("p", { class: "readout", role: "status" });
  const samples = sampleBox(data);
  const reading = readingCards(data);
  const heads = headGrid(data, weight, act.openHead);
  const map = weightGrid(data.tokens, false);
  listenToGrid(map.grid, map.cells, { choose: act.choose,
    preview: act.preview, open: act.choose, leave: act.leaveMap });
  const where = element("p", { class: "readout look" });
  const tables = timeTables(data);
  const link = live ? null
    : element("a", { class: "link" }, "Link to this view");
  root.append(...[
    road.node, said, partName("What it writes"), samples.node,
    partName("What it expects ", element("span", { class: "fact" },
      "bar: probability of the token; number: its loss in nats")),
    reading.node, partName("Where it looks"),
    element("div", { class: "looks" }, heads.node,
      element("div", { class: "large" }, where,
        element("div", { class: "scroll" }, map.grid))),
    element("p", { class: "try" }, data.hint), tables.node, link,
  ].filter(Boolean));
  return { ...map, road, said, samples, reading, heads, where, tables, link };
}

/** The maps as large as the page allows, side by side if they can. */
function fitLooks(root, { grid, heads }, data) {
  const T = data.tokens.length;
  const names = heads.node.querySelector(".place").offsetWidth;
  const room = Math.floor((root.clientWidth - names) / data.n_head) - MAP_GAP;
  const small = Math.min(Math.max(room, NARROW), SMALL_MAP);
  heads.node.style.setProperty("--side", `${small}px`);
  const labels = grid.querySelector(".rowheader").offsetWidth;
  const beside = root.clientWidth - heads.node.offsetWidth - 36;
  const free = (width) => Math.floor((width - labels - 8) / T);
  const fit = free(beside) >= BESIDE ? free(beside) : free(root.clientWidth);
  const side = Math.min(Math.max(fit, NARROW), LARGEST_CELL);
  grid.style.setProperty("--side", `${side}px`);
  grid.classList.toggle("numbers", side >= 25 && T <= NUMBERED);
}

/** Redraw what depends on the size or the theme, whenever these change. */
function followRoom(root, parts, data, repaint, redraw, stops) {
  let width = 0;
  const resized = new ResizeObserver(() => {
    if (root.clientWidth === width) return;
    width = root.clientWidth;
    parts.road.resize(width);
    fitLooks(root, parts, data);
    repaint();
    redraw();
  });
  const recolored = new MutationObserver(repaint);
  resized.observe(root);
  recolored.observe(root, { attributeFilter: ["data-theme"] });
  stops.push(() => resized.disconnect(), () => recolored.disconnect());
}

/** Build the figure in `root`; returns the function that redraws it. */
function drawTimeMachine(root, data, state, stops) {
  const T = data.tokens.length;
  const live = !(state instanceof LocalState);
  const read = momentReader(data);
  const moment = () => data.steps.indexOf(state.get("step"));
  const weight = (...place) => read(moment(), ...place);
  const redraw = oncePerFrame(update);
  const act = timeActions(data, state, redraw);
  const parts = timeParts(root, data, weight, act, live);
  const address = live ? null : keepInAddress(root.getRootNode().host
    .parentElement, data.name, state, timeCodec(data, state), stops);
  const repaint = () => paintMaps(root, parts.heads.maps, T, weight);
  followRoom(root, parts, data, repaint, redraw, stops);
  let shown = null; // the moment that all parts show
  let painted = null; // moment, layer and head of the large map

  function travelTo(now) {
    parts.samples.update(now);
    parts.reading.update(now);
    timeReadout(parts.said, data, now);
    parts.heads.maps.forEach((row, layer) => row.forEach((map, head) => {
      map.name = headSummary(data, weight, layer, head);
    }));
    repaint();
    shown = now;
  }

  function update() {
    const now = moment();
    const [layer, head, query, key] = ["layer", "head", "query", "key"].map(
      (name) => state.get(name));
    const cell = (q, k) => weight(layer, head, q, k);
    if (now !== shown) travelTo(now);
    if (painted !== `${now} ${layer} ${head}`) {
      paintCells(parts.cells, data.tokens, cell);
      painted = `${now} ${layer} ${head}`;
    }
    parts.road.update(now);
    markHeads(parts.heads, layer, head, []);
    const seen = { query, key, ...act.passing };
    markCell(parts, seen.query, seen.key);
    rove(parts, query, key);
    lookReadout(parts.where, data, seen, cell);
    parts.fill = () => parts.tables.weights.replaceChildren(
      queryTable(data, read, { layer, head, query }));
    if (parts.tables.node.open) parts.fill();
    if (parts.link) parts.link.href = address();
    const target = { cell: () => parts.cells[query][key],
      head: () => parts.heads.maps[layer][head].node }[act.focus]?.();
    target?.focus({ preventScroll: true });
    act.focus = null;
  }

  parts.tables.node.addEventListener("toggle", () => parts.fill?.());
  return update;
}

const KIND = "time-machine";
const NAMES = ["step", "layer", "head", "query", "key"];
const DRAW = drawTimeMachine;
