// AttentionExplorer: every head as a small map, one head as a large one, the
// sum behind a cell, and the next token with heads switched off.

/** The chosen query's weights as a plain table. */
function weightTable(tokens, weights, query) {
  const rows = weights.map((weight, i) => tableRow(tokenName(tokens[i]),
    [String(i), weight === null ? "masked" : number(weight)]));
  return tableOf(
    ["Query ", tokenName(tokens[query]), `, position ${query}`],
    ["key", "position", "weight"], rows);
}

/** The sentence under the controls: who looks at whom, how much. */
function readout(node, data, query, key, weight) {
  const name = (kind, i) => tokenName(shortened(data.tokens[i]), kind);
  const parts =
    weight !== null
      ? [name("query", query), " looks at ", name("key", key),
         " with weight ",
         element("data", { value: weight }, number(weight))]
      : closedReader(data)(query, key) === "after"
        ? ["masked: ", name("key", key), " stands after ",
           name("query", query), ", so this query may not look at it"]
        : ["masked: ", name("key", key), " is out of the window of ",
           name("query", query)];
  node.replaceChildren(element("span", {}, ...parts));
}

/** The state as a part of the address, and back. */
function addressCodec(data, state) {
  const T = data.tokens.length;
  const limits = {
    layer: data.n_layer, head: data.n_head, row: T, col: T,
  };
  const traits = { layer: "layer", head: "head", row: "query", col: "key" };
  const start = { opened: false };
  const stored = (off) => // one head at a time, and what the author chose
    off.length < 2 || state.get("outcome").name === setName(off)
      ? off : off.slice(-1);
  for (const name of Object.values(traits)) start[name] = state.get(name);
  const write = (state) => [
    ...Object.entries(traits).map(([name, trait]) => name + state.get(trait)),
    ...(state.get("opened") ? ["open"] : []),
    ...state.get("off").map((pair) => `off${pair.join("-")}`),
  ].join(".");
  const read = (text) => {
    const found = { ...start };
    const off = [];
    for (const part of text.split(".")) {
      const [, name, value] = part.match(/^([a-z]+)(\d{1,4})$/) ?? [];
      if (Number(value) < limits[name]) found[traits[name]] = Number(value);
      const [, layer, head] = part.match(/^off(\d{1,4})-(\d{1,4})$/) ?? [];
      if (Number(layer) < data.n_layer && Number(head) < data.n_head) {
        off.push([Number(layer), Number(head)]);
      }
      if (part === "open") found.opened = Boolean(data.queries);
    }
    return { ...found, off: data.singly ? stored(off) : [] };
  };
  const place = (text) => text.replace(/\.(row|col)\d+/g, "");
  return { write, read, place };
}

/** What the reader's hand does: choose, look in passing, open, go back. */
function actions(data, state, weight, redraw) {
  const { tokens } = data;
  const act = { passing: null, focus: null, show: false };
  act.choose = (query, key) => {
    act.passing = null; // the pointer rests where it was
    if (query !== state.get("query") || key !== state.get("key")) {
      state.set({ query, key });
    } else redraw();
  };
  const best = (query) => strongest(tokens, (key) =>
    weight(state.get("layer"), state.get("head"), query, key));
  act.chooseQuery = (query) => act.choose(query, best(query));
  act.preview = (query, key) => {
    act.passing = query === null ? null : { query, key };
    redraw();
  };
  act.previewQuery = (query) =>
    act.preview(query, query === null ? null : best(query));
  act.openHead = (layer, head, byKey) => {
    if (byKey) act.focus = "cell";
    state.set({ layer, head });
  };
  act.openCell = (query, key, byKey) => {
    if (!data.queries) return act.choose(query, key);
    act.passing = null;
    if (byKey) act.focus = "panel";
    else if (!state.get("opened")) act.show = true;
    state.set({ query, key, opened: true });
  };
  act.closeCell = () => {
    act.focus = "cell";
    state.set({ opened: false });
  };
  act.leaveMap = (event) => {
    event.preventDefault();
    if (state.get("opened")) return act.closeCell();
    act.focus = "head";
    redraw();
  };
  return act;
}

/** Everything that is seen, in its order. */
function attentionParts(root, data, weight, state, act, live) {
  const { tokens, n_layer: L, n_head: H } = data;
  const layer = select([...Array(L).keys()], (i) => state.set({ layer: i }));
  const head = select([...Array(H).keys()], (i) => state.set({ head: i }));
  const heads = L * H > 1 ? headGrid(data, weight, act.openHead) : null;
  const strip = tokenStrip(tokens, act.chooseQuery, act.previewQuery);
  const map = weightGrid(tokens, Boolean(data.queries));
  listenToGrid(map.grid, map.cells, { choose: act.choose,
    preview: act.preview, open: act.openCell, leave: act.leaveMap });
  const said = element("p", { class: "readout" });
  const table = element("div");
  const more = element(
    "details", {},
    element("summary", {}, "This query’s weights as a table"), table);
  const panel = data.queries ? cellPanel(data, act.closeCell) : null;
  const switches = data.singly ? switchPanel(data, state, live) : null;
  const link = live ? null
    : element("a", { class: "link" }, "Link to this view");
  root.append(...[
    heads?.node,
    element("div", { class: "controls" },
      field("Layer", layer), field("Head", head), said),
    strip.node, element("div", { class: "scroll" }, map.grid),
    element("p", { class: "try" }, data.hint), panel?.node, switches?.node,
    more, link].filter(Boolean));
  return { ...map, layer, head, heads, strip, said, table, more, panel,
    switches, link };
}

/** Move the focus where the last key press led, once that is drawn. */
function moveFocus(parts, act, { layer, head, query, key }) {
  const target = {
    cell: () => parts.cells[query][key],
    head: () => parts.heads?.maps[layer][head].node,
    panel: () => parts.panel.node,
  }[act.focus]?.();
  target?.focus({ preventScroll: true });
  const seen = target ?? (act.show ? parts.panel.node : null);
  seen?.scrollIntoView({ block: "nearest", behavior: "instant" });
  Object.assign(act, { focus: null, show: false });
}

/** Redraw what depends on the size or the theme, whenever these change. */
function followSize(root, parts, data, weight, redraw, stops) {
  const T = data.tokens.length;
  const repaint = () => {
    if (parts.heads) paintMaps(root, parts.heads.maps, T, weight);
  };
  let width = 0;
  const resized = new ResizeObserver(() => {
    if (root.clientWidth === width) return;
    width = root.clientWidth;
    fitMaps(root, parts.grid, parts.heads?.node, T, data.n_head);
    repaint();
    redraw();
  });
  const recolored = new MutationObserver(repaint);
  resized.observe(root);
  recolored.observe(root, { attributeFilter: ["data-theme"] });
  stops.push(() => resized.disconnect(), () => recolored.disconnect());
}

/** Build the figure in `root`; returns the function that redraws it. */
function drawAttention(root, data, state, stops) {
  const { tokens } = data;
  const live = !(state instanceof LocalState);
  const weight = weightReader(data);
  const redraw = oncePerFrame(update);
  const act = actions(data, state, weight, redraw);
  const parts = attentionParts(root, data, weight, state, act, live);
  const address = live ? null : keepInAddress(root.getRootNode().host
    .parentElement, data.name, state, addressCodec(data, state), stops);
  followSize(root, parts, data, weight, redraw, stops);
  let painted = null; // which layer and head the cells show
  let summed = null; // which cell the panel shows
  let brought = null; // which token the sentence was scrolled to

  function update() {
    const at = Object.fromEntries(["layer", "head", "query", "key"].map(
      (name) => [name, state.get(name)]));
    const { layer, head } = at;
    const shown = { ...at, ...act.passing };
    const { query, key } = shown;
    if (painted !== `${layer} ${head}`) {
      paintCells(parts.cells, tokens, (q, k) => weight(layer, head, q, k));
      painted = `${layer} ${head}`;
    }
    parts.layer.value = layer;
    parts.head.value = head;
    if (parts.heads) markHeads(parts.heads, layer, head, state.get("off"));
    const weights = tokens.map((_, k) => weight(layer, head, query, k));
    parts.strip.buttons.forEach((node, i) => {
      paint(node, weights[i], tokens[i]);
      node.setAttribute("aria-pressed", i === query);
      node.classList.toggle("looked-at", i === key);
      node.tabIndex = i === at.query ? 0 : -1;
    });
    if (at.query !== brought) showToken(parts.strip, at.query);
    brought = at.query;
    drawArcs(parts.strip, weights, query, key);
    markCell(parts, query, key);
    rove(parts, at.query, at.key);
    readout(parts.said, data, query, key, weights[key]);
    fillPanels(at);
    parts.fillTable = () => parts.table.replaceChildren(
      weightTable(tokens, weights, query));
    if (parts.more.open) parts.fillTable();
    if (parts.link) parts.link.href = address();
    moveFocus(parts, act, at);
  }

  function fillPanels(at) {
    const { layer, head, query, key } = at;
    const opened = state.get("opened") && parts.panel;
    const cell = opened ? [layer, head, query, key].join() : null;
    if (parts.panel) parts.panel.node.hidden = !opened;
    if (cell && cell !== summed) {
      const own = weight(layer, head, query, key);
      parts.panel.fill({ ...at, weight: own });
    }
    summed = cell;
    parts.switches?.fill(layer, head, query, state.get("off"));
  }

  parts.more.addEventListener("toggle", () => parts.fillTable?.());
  return update;
}

const KIND = "attention";
const NAMES = ["layer", "head", "query", "key", "opened", "off", "outcome"];
const DRAW = drawAttention;
