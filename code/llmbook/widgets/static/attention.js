// AttentionExplorer: one head's weights as a map of queries and keys.

const NUMBERED = 24; // tokens up to which the cells have room for numbers

/** The weight of (layer, head, query, key), or null where it is masked. */
function weightReader(data) {
  const { n_head: H, tokens, causal } = data;
  const T = tokens.length;
  const size = causal ? (T * (T + 1)) / 2 : T * T; // numbers in one head
  const values = floats(data.weights);
  return (layer, head, query, key) => {
    if (causal && key > query) return null;
    const row = causal ? (query * (query + 1)) / 2 : query * T;
    return values[(layer * H + head) * size + row + key];
  };
}

/** The token strip: each token a button that becomes the query. */
function tokenStrip(tokens, choose) {
  const buttons = tokens.map((token, i) => {
    const node = button(token, () => choose(i));
    node.addEventListener("pointerenter", (event) => {
      if (event.pointerType === "mouse") choose(i);
    });
    return node;
  });
  const strip = element(
    "div",
    { class: "strip", role: "group", "aria-label": "Query token" },
    ...buttons,
  );
  strip.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const next = buttons.indexOf(event.target) + step;
    if (next < 0 || next >= buttons.length) return;
    event.preventDefault();
    choose(next);
    buttons[next].focus();
  });
  return { strip, buttons };
}

/** The map's cells with their headers, as an ARIA grid. */
function weightGrid(tokens) {
  const header = (role, token) =>
    element("div", { role, class: role }, element("span", {}, token));
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
  const grid = element(
    "div",
    { role: "grid", class: "grid", "aria-label": "Attention weights" },
    element("div", { role: "row" }, corner, ...columns),
    ...rows.map((row, i) => element("div", { role: "row" }, row, ...cells[i])),
  );
  grid.style.setProperty("--tokens", tokens.length);
  return { grid, columns, rows, cells };
}

/** Where a key press leads from (query, key); null when nowhere. */
function afterKey(event, query, key, last) {
  const far = event.ctrlKey || event.metaKey;
  const moves = {
    ArrowUp: [query - 1, key],
    ArrowDown: [query + 1, key],
    ArrowLeft: [query, key - 1],
    ArrowRight: [query, key + 1],
    Home: far ? [0, 0] : [query, 0],
    End: far ? [last, last] : [query, last],
  };
  const move = moves[event.key];
  if (!move) return null;
  return move.map((value) => Math.min(Math.max(value, 0), last));
}

/** Hover, tap and arrow keys in the map choose (query, key). */
function listenToGrid(grid, cells, choose) {
  const position = (event) => {
    const cell = event.target.closest?.(".cell");
    return cell && [Number(cell.dataset.query), Number(cell.dataset.key)];
  };
  for (const kind of ["pointerover", "click", "focusin"]) {
    grid.addEventListener(kind, (event) => {
      const at = position(event);
      if (at) choose(...at);
    });
  }
  grid.addEventListener("keydown", (event) => {
    const at = position(event);
    const next = at && afterKey(event, ...at, cells.length - 1);
    if (!next) return;
    event.preventDefault();
    choose(...next);
    cells[next[0]][next[1]].focus();
  });
}

/** Paint one cell or token with its weight. */
function paint(node, weight, name) {
  const level = weight === null
    ? "masked" : `level-${Math.round(63 * Math.min(weight, 1))}`;
  const value = weight === null ? "masked" : number(weight);
  node.setAttribute("aria-label", `${name}: ${value}`);
  if (node.level === level) return; // most cells stay as they are
  node.classList.remove(node.level);
  node.classList.add(level);
  node.level = level;
}

/** The sentence under the controls: who looks at whom, how much. */
function readout(node, tokens, query, key, weight) {
  const name = (kind, i) =>
    element("span", { class: `token ${kind}` }, tokens[i]);
  const parts =
    weight === null
      ? ["masked: ", name("key", key), " stands after ", name("query", query),
         ", so this query may not look at it"]
      : [name("query", query), " looks at ", name("key", key),
         " with weight ",
         element("data", { value: weight }, number(weight))];
  node.replaceChildren(...parts);
}

/** The chosen query's weights as a plain table. */
function weightTable(node, tokens, weights, query) {
  const head = element(
    "tr", {},
    ...["position", "key", "weight"].map((name) =>
      element("th", { scope: "col" }, name)),
  );
  const rows = weights.map((weight, i) =>
    element(
      "tr", {},
      element("td", {}, String(i)),
      element("th", { scope: "row" }, tokens[i]),
      element("td", {}, weight === null ? "masked" : number(weight)),
    ),
  );
  node.replaceChildren(
    element("caption", {}, `Query ${tokens[query]}, position ${query}`),
    element("thead", {}, head),
    element("tbody", {}, ...rows),
  );
}

/** Cells as wide as the page allows, with their values where these fit. */
function fitCells(root, grid, T, stops) {
  const observer = new ResizeObserver(() => {
    const labels = grid.querySelector(".rowheader").offsetWidth;
    const free = (root.clientWidth - labels - 2) / T;
    const side = Math.min(Math.max(Math.floor(free), NARROW), 44);
    grid.style.setProperty("--side", `${side}px`);
    grid.classList.toggle("numbers", side >= 30 && T <= NUMBERED);
  });
  observer.observe(root);
  stops.push(() => observer.disconnect());
}

/** The key with the largest weight. */
function strongest(tokens, weight) {
  const weights = tokens.map((_, key) => weight(key) ?? -1);
  return weights.indexOf(Math.max(...weights));
}

function attentionParts(root, data, weight, state, stops) {
  const { tokens } = data;
  const choose = (query, key) => {
    if (query !== state.get("query") || key !== state.get("key")) {
      state.set({ query, key });
    }
  };
  const layer = select([...Array(data.n_layer).keys()], (i) =>
    state.set({ layer: i }));
  const head = select([...Array(data.n_head).keys()], (i) =>
    state.set({ head: i }));
  const { strip, buttons } = tokenStrip(tokens, (query) =>
    choose(query, strongest(tokens, (key) =>
      weight(state.get("layer"), state.get("head"), query, key))));
  const map = weightGrid(tokens);
  listenToGrid(map.grid, map.cells, choose);
  const line = element("p", { class: "readout" });
  const table = element("table");
  const controls = element(
    "div", { class: "controls" },
    field("Layer", layer), field("Head", head), line,
  );
  const more = element(
    "details", {},
    element("summary", {}, "This query’s weights as a table"), table);
  const scroll = element("div", { class: "scroll" }, map.grid);
  root.append(
    controls, strip, scroll, element("p", { class: "try" }, data.hint), more);
  fitCells(root, map.grid, tokens.length, stops);
  const parts = { ...map, layer, head, buttons, line, table, more };
  more.addEventListener("toggle", () => parts.fillTable());
  return parts;
}

/** Build the figure in `root`; returns the function that redraws it. */
function drawAttention(root, data, state, stops) {
  const { tokens } = data;
  const weight = weightReader(data);
  const parts = attentionParts(root, data, weight, state, stops);
  let painted = null; // which layer and head the cells show

  return () => {
    const [layer, head, query, key] = ["layer", "head", "query", "key"].map(
      (name) => state.get(name));
    if (painted !== `${layer} ${head}`) {
      paintCells(parts.cells, tokens, (q, k) => weight(layer, head, q, k));
      painted = `${layer} ${head}`;
    }
    parts.layer.value = layer;
    parts.head.value = head;
    const weights = tokens.map((_, k) => weight(layer, head, query, k));
    parts.buttons.forEach((node, i) => {
      paint(node, weights[i], tokens[i]);
      node.setAttribute("aria-pressed", i === query);
      node.classList.toggle("looked-at", i === key);
      node.tabIndex = i === query ? 0 : -1;
    });
    mark(parts, query, key);
    readout(parts.line, tokens, query, key, weights[key]);
    parts.fillTable = () => weightTable(parts.table, tokens, weights, query);
    if (parts.more.open) parts.fillTable();
  };
}

/** Every cell's colour and value; what is masked stays masked. */
function paintCells(cells, tokens, weight) {
  const short = tokens.length <= NUMBERED;
  cells.forEach((row, query) =>
    row.forEach((cell, key) => {
      const value = weight(query, key);
      if (value === null && cell.level === "masked") return;
      paint(cell, value, `${tokens[query]} to ${tokens[key]}`);
      if (short && value !== null) {
        cell.dataset.short = value.toFixed(2).replace(/^0/, "");
      }
    }),
  );
}

/** Mark the chosen cell, its row and its column; only it takes the focus. */
function mark(parts, query, key) {
  if (parts.marked) setMark(parts, ...parts.marked, false);
  setMark(parts, query, key, true);
  parts.marked = [query, key];
}

function setMark({ cells, rows, columns }, query, key, on) {
  rows[query].classList.toggle("chosen", on);
  columns[key].classList.toggle("chosen", on);
  for (const cell of cells[query]) cell.classList.toggle("in-row", on);
  for (const row of cells) row[key].classList.toggle("in-column", on);
  const cell = cells[query][key];
  cell.classList.toggle("chosen", on);
  cell.tabIndex = on ? 0 : -1;
}

const KIND = "attention";
const NAMES = ["layer", "head", "query", "key"];
const DRAW = drawAttention;
