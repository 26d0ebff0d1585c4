// The attention explorer's maps: every head small, one head large, and the
// sentence with arcs from the token that asks to the tokens that it looks at.

const NUMBERED = 24; // tokens up to which the cells have room for numbers
const LARGEST_CELL = 44; // pixels
const LARGEST_MAP = 60; // pixels: a head's small map
const MAP_GAP = 6; // pixels between small maps
const ARC_HEIGHT = 58; // pixels: the widest arc's
const ARC_WIDTH = 7; // pixels: an arc's that carries all the weight
const FAINTEST = 0.005; // a weight whose arc can still be seen
const LEVELS = 64;
const LONGEST_NAME = 18; // characters of a token in the line above the maps

/** A token's text, kept from reordering the words around it. */
function tokenName(text, kind = "") {
  return element("bdi", { class: `token ${kind}`.trim() }, text);
}

/** A token cut to what fits into a line that must not grow. */
function shortened(text) {
  const characters = Array.from(text);
  return characters.length <= LONGEST_NAME ? text
    : `${characters.slice(0, LONGEST_NAME - 1).join("")}…`;
}

/** Why (query, key) is closed: "after", "window"; null where it is open. */
function closedReader({ causal, window }) {
  return (query, key) => {
    if (causal && key > query) return "after";
    return window !== null && query - key >= window ? "window" : null;
  };
}

/** The weight of (layer, head, query, key), or null where it is masked. */
function weightReader(data) {
  const { n_head: H, tokens, causal } = data;
  const T = tokens.length;
  const size = causal ? (T * (T + 1)) / 2 : T * T; // numbers in one head
  const values = unpacked(data.weights);
  const closed = closedReader(data);
  return (layer, head, query, key) => {
    if (closed(query, key)) return null;
    const row = causal ? (query * (query + 1)) / 2 : query * T;
    return values[(layer * H + head) * size + row + key];
  };
}

/** The step of the scale that a weight is painted with. */
function levelOf(weight) {
  return Math.round((LEVELS - 1) * Math.min(weight, 1));
}

/** The key with the largest weight. */
function strongest(tokens, weight) {
  const weights = tokens.map((_, key) => weight(key) ?? -1);
  return weights.indexOf(Math.max(...weights));
}

/** Where a key press leads from (row, column); null when nowhere. */
function afterKey(event, row, column, lastRow, lastColumn) {
  const far = event.ctrlKey || event.metaKey;
  const moves = {
    ArrowUp: [row - 1, column],
    ArrowDown: [row + 1, column],
    ArrowLeft: [row, column - 1],
    ArrowRight: [row, column + 1],
    Home: far ? [0, 0] : [row, 0],
    End: far ? [lastRow, lastColumn] : [row, lastColumn],
  };
  const move = moves[event.key];
  if (!move) return null;
  event.preventDefault();
  return move.map((value, i) =>
    Math.min(Math.max(value, 0), [lastRow, lastColumn][i]));
}

/* ------------------------------------------------------------ all heads */

/** What a head's small map shows, for those who cannot see it. */
function headSummary(data, weight, layer, head) {
  const rows = data.tokens.map((_, query) => query).slice(1);
  const mean = (key) => rows.length
    ? rows.reduce((total, query) =>
      total + (weight(layer, head, query, key(query)) ?? 0), 0) / rows.length
    : 1;
  const shares = [
    [mean((query) => query), "its own token"],
    [mean((query) => query - 1), "the token before"],
    [mean(() => 0), "the first token"],
  ];
  const told = shares.map(([share, name]) =>
    `${Math.round(100 * share)} % on ${name}`);
  return `Layer ${layer}, head ${head}: ${told.join(", ")}`;
}

/** Paint every head's small map in the theme's colours. */
function paintMaps(root, maps, T, weight) {
  const style = getComputedStyle(root);
  const colors = Array.from({ length: LEVELS }, (_, i) =>
    style.getPropertyValue(`--llm-seq-${i}`).trim());
  if (!colors[0]) return; // not in the page yet
  maps.forEach((row, layer) => row.forEach(({ canvas }, head) => {
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, T, T);
    for (let query = 0; query < T; query++) {
      for (let key = 0; key < T; key++) {
        const value = weight(layer, head, query, key);
        if (value === null) continue;
        context.fillStyle = colors[levelOf(value)];
        context.fillRect(key, query, 1, 1);
      }
    }
  }));
}

/** Every head as a small map, an ARIA grid; Enter and click open a head. */
function headGrid(data, weight, open) {
  const T = data.tokens.length;
  const maps = Array.from({ length: data.n_layer }, (_, layer) =>
    Array.from({ length: data.n_head }, (_, head) => {
      const canvas = element("canvas", {
        width: T, height: T, "aria-hidden": "true",
      });
      const node = element("div", {
        role: "gridcell", class: "small", tabindex: -1,
        "data-layer": layer, "data-head": head,
      }, canvas);
      return { node, canvas, name: headSummary(data, weight, layer, head) };
    }));
  const title = (role, text) => element("div", { role, class: "place" }, text);
  const heads = maps[0].map((_, head) => title("columnheader", String(head)));
  const node = element("div", {
    role: "grid", class: "heads", "aria-label": "All layers and heads",
  }, element("div", { role: "row" },
    title("columnheader", "layer ↓ head →"), ...heads),
  ...maps.map((row, layer) => element("div", { role: "row" },
    title("rowheader", String(layer)), ...row.map((map) => map.node))));
  node.style.setProperty("--heads", data.n_head);
  listenToHeads(node, maps, open);
  return { node, maps };
}

/** Arrow keys walk among the small maps, Enter and click open one. */
function listenToHeads(node, maps, open) {
  const place = (event) => {
    const { layer, head } = event.target.closest?.(".small")?.dataset ?? {};
    return layer && [Number(layer), Number(head)];
  };
  const focus = ([layer, head]) => {
    for (const map of maps.flat()) map.node.tabIndex = -1;
    maps[layer][head].node.tabIndex = 0;
    maps[layer][head].node.focus();
  };
  node.addEventListener("click", (event) => {
    const at = place(event);
    if (at) open(...at, false);
  });
  node.addEventListener("keydown", (event) => {
    const at = place(event);
    if (!at) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      return open(...at, true);
    }
    const last = [maps.length - 1, maps[0].length - 1];
    const next = afterKey(event, ...at, ...last);
    if (next) focus(next);
  });
}

/** Frame the open head and cross out those that are off. */
function markHeads({ node: grid, maps }, layer, head, off) {
  const walking = grid.contains(grid.getRootNode().activeElement);
  maps.forEach((row, l) => row.forEach(({ node, name }, h) => {
    const open = l === layer && h === head;
    const out = off.some(([i, j]) => i === l && j === h);
    node.classList.toggle("off", out);
    node.setAttribute("aria-selected", open);
    const state = [open && "open", out && "switched off"].filter(Boolean);
    node.setAttribute("aria-label", [name, ...state].join("; "));
    if (!walking) node.tabIndex = open ? 0 : -1;
  }));
}

/* ---------------------------------------------------------- the sentence */

/** The token strip: each token a button that becomes the query. */
function tokenStrip(tokens, choose, preview) {
  const buttons = tokens.map((token, i) => {
    const node = element("button", { type: "button" }, tokenName(token));
    node.addEventListener("click", () => choose(i));
    node.addEventListener("pointerenter", (event) => {
      if (event.pointerType === "mouse") preview(i);
    });
    return node;
  });
  const strip = element(
    "div",
    { class: "strip", role: "group", "aria-label": "Query token" },
    ...buttons,
  );
  strip.addEventListener("pointerleave", () => preview(null));
  strip.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = buttons.indexOf(event.target) + step;
    if (next < 0 || next >= buttons.length) return;
    choose(next);
    buttons[next].focus();
  });
  const arcs = shape("svg", { class: "arcs", "aria-hidden": "true" });
  const node = element("div", { class: "scroll sentence" }, arcs, strip);
  return { node, strip, buttons, arcs };
}

/** One arc from the query to a key; to itself it is a ring. */
function arc(from, to, widest, weight, marked) {
  const far = Math.abs(from - to);
  const rise = 8 + (ARC_HEIGHT - 8) * Math.sqrt(far / widest);
  const base = ARC_HEIGHT + ARC_WIDTH;
  const top = base - rise * 1.3;
  return shape("path", {
    d: far ? `M${from} ${base}C${from} ${top} ${to} ${top} ${to} ${base}`
      : `M${from - 4} ${base}a5 9 0 1 1 8 0`,
    "stroke-width": Math.max(ARC_WIDTH * weight, 0.4),
    class: marked ? "marked" : "",
  });
}

/** Bring the query into the visible part of a long sentence. */
function showToken({ node, buttons }, query) {
  const { offsetLeft: left, offsetWidth: width } = buttons[query];
  const right = left + width - node.clientWidth;
  if (node.scrollLeft > left) node.scrollLeft = left;
  else if (node.scrollLeft < right) node.scrollLeft = right;
}

/** Arcs from the query to every key, as wide as the weights. */
function drawArcs({ arcs, strip, buttons }, weights, query, key) {
  const middles = buttons.map((b) => b.offsetLeft + b.offsetWidth / 2);
  const widest = Math.max(middles.at(-1) - middles[0], 1);
  arcs.setAttribute("width", strip.scrollWidth);
  arcs.setAttribute("height", ARC_HEIGHT + ARC_WIDTH);
  const drawn = weights
    .map((weight, i) => ({ weight, i }))
    .filter(({ weight, i }) => weight > FAINTEST || (weight && i === key))
    .sort((one, other) => (one.i === key) - (other.i === key));
  arcs.replaceChildren(...drawn.map(({ weight, i }) =>
    arc(middles[query], middles[i], widest, weight, i === key)));
}

/* --------------------------------------------------------------- the map */

/** The map's cells with their headers, as an ARIA grid. */
function weightGrid(tokens, canOpen) {
  const header = (role, token) =>
    element("div", { role, class: role }, element("bdi", {}, token));
  const corner = element(
    "div",
    { role: "columnheader", class: "corner" },
    element("span", { class: "query" }, "query ↓"),
    element("span", { class: "key" }, "key →"),
  );
  const columns = tokens.map((token) => header("columnheader", token));
  const rows = tokens.map((token) => header("rowheader", token));
  const cells = tokens.map((_, query) =>
    tokens.map((_, key) =>
      element("div", {
        role: "gridcell",
        class: "cell",
        tabindex: -1,
        "data-query": query,
        "data-key": key,
      }),
    ),
  );
  const name = `Attention weights${canOpen ? "; Enter opens a cell" : ""}`;
  const grid = element(
    "div",
    { role: "grid", class: "grid", "aria-label": name },
    element("div", { role: "row" }, corner, ...columns),
    ...rows.map((row, i) => element("div", { role: "row" }, row, ...cells[i])),
  );
  grid.style.setProperty("--tokens", tokens.length);
  return { grid, columns, rows, cells };
}

/** Pointer and keys in the map: look at a cell, choose it, open it. */
function listenToGrid(grid, cells, { choose, preview, open, leave }) {
  const position = (event) => {
    const cell = event.target.closest?.(".cell");
    return cell && [Number(cell.dataset.query), Number(cell.dataset.key)];
  };
  grid.addEventListener("pointerover", (event) => {
    const at = position(event);
    if (at && event.pointerType === "mouse") preview(...at);
  });
  grid.addEventListener("pointerleave", () => preview(null));
  grid.addEventListener("focusin", (event) => {
    const at = position(event);
    if (at) choose(...at);
  });
  grid.addEventListener("click", (event) => {
    const at = position(event);
    if (at) open(...at, false);
  });
  grid.addEventListener("keydown", (event) => {
    const at = position(event);
    if (!at) return;
    if (event.key === "Escape") return leave(event);
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      return open(...at, true);
    }
    const last = cells.length - 1;
    const next = afterKey(event, ...at, last, last);
    if (!next) return;
    choose(...next);
    cells[next[0]][next[1]].focus();
  });
}

/** Paint one cell or token with its weight. */
function paint(node, weight, name) {
  const level = weight === null ? "masked" : `level-${levelOf(weight)}`;
  const value = weight === null ? "masked" : number(weight);
  node.setAttribute("aria-label", `${name}: ${value}`);
  if (weight === null) delete node.dataset.short;
  else node.dataset.short = weight.toFixed(2).replace(/^0/, "");
  if (node.level === level) return; // most cells stay as they are
  node.classList.remove(node.level);
  node.classList.add(level);
  node.level = level;
}

/** Every cell's colour and value; what is masked stays masked. */
function paintCells(cells, tokens, weight) {
  cells.forEach((row, query) =>
    row.forEach((cell, key) => {
      const value = weight(query, key);
      if (value === null && cell.level === "masked") return;
      paint(cell, value, `${tokens[query]} to ${tokens[key]}`);
    }),
  );
}

/** Mark the shown cell, its row and its column. */
function markCell(parts, query, key) {
  if (parts.marked) setMark(parts, ...parts.marked, false);
  setMark(parts, query, key, true);
  parts.marked = [query, key];
}

function setMark({ cells, rows, columns }, query, key, on) {
  rows[query].classList.toggle("chosen", on);
  columns[key].classList.toggle("chosen", on);
  for (const cell of cells[query]) cell.classList.toggle("in-row", on);
  for (const row of cells) row[key].classList.toggle("in-column", on);
  cells[query][key].classList.toggle("chosen", on);
}

/** Only the chosen cell takes the focus that Tab brings. */
function rove(parts, query, key) {
  if (parts.roving) parts.roving.tabIndex = -1;
  parts.roving = parts.cells[query][key];
  parts.roving.tabIndex = 0;
}

/** Maps as wide as the page allows, with their values where these fit. */
function fitMaps(root, grid, heads, T, H) {
  const labels = grid.querySelector(".rowheader").offsetWidth;
  const free = (root.clientWidth - labels - 2) / T;
  const side = Math.min(Math.max(Math.floor(free), NARROW), LARGEST_CELL);
  grid.style.setProperty("--side", `${side}px`);
  grid.classList.toggle("numbers", side >= 30 && T <= NUMBERED);
  if (!heads) return;
  const names = heads.querySelector(".place").offsetWidth;
  const room = Math.floor((root.clientWidth - names) / H) - MAP_GAP;
  const small = Math.min(Math.max(room, NARROW), LARGEST_MAP);
  heads.style.setProperty("--side", `${small}px`);
}
