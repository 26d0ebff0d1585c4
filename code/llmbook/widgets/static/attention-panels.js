// The attention explorer's panels: the sum behind one weight, and what the
// model guesses next with a head switched off.

const TERMS = 8; // products listed at first, the largest ones
const MANY_KEYS = 16; // beyond, the list of keys scrolls

/** A product as a bar, to the left of the middle where it is negative. */
function signedBar(amount, largest) {
  const share = largest ? (50 * Math.abs(amount)) / largest : 0;
  const bar = element("i");
  bar.style.width = `${share}%`;
  bar.style.left = `${amount < 0 ? 50 - share : 50}%`;
  return element("div", { class: "signed", "aria-hidden": "true" }, bar);
}

/** The products of the query and the chosen key, largest first to be seen. */
function productTable(query, key, names, all, showAll) {
  const terms = products(query, key);
  const order = terms.map((_, i) => i)
    .sort((i, j) => Math.abs(terms[j]) - Math.abs(terms[i]));
  const largest = Math.abs(terms[order[0]]);
  const shown = order.slice(0, all ? terms.length : TERMS)
    .sort((i, j) => i - j);
  const rows = shown.map((i) => tableRow(String(i),
    [written(query[i]), written(key[i]), written(terms[i]),
      signedBar(terms[i], largest)]));
  const total = sum(terms);
  const left = terms.length - shown.length;
  if (left) {
    const rest = total - sum(shown.map((i) => terms[i]));
    rows.push(tableRow(`${left} more`, ["", "", written(rest), ""],
      { class: "rest" }));
  }
  const caption = left
    ? `The ${shown.length} largest of ${terms.length} products`
    : `All ${terms.length} products`;
  const table = tableOf([caption],
    ["number", element("span", { class: "query" }, "query ", names.query),
      element("span", { class: "key" }, "key ", names.key), "product", ""],
    rows, [tableRow("q · k", ["", "", written(total), ""])]);
  const toggle = button(all
    ? `Only the ${TERMS} largest` : `All ${terms.length} products`, showAll);
  toggle.setAttribute("aria-expanded", all);
  return terms.length > TERMS ? [table, toggle] : [table];
}

/** Why the mask is closed, in a sentence. */
function whyClosed(reason, data, query, key) {
  const name = (i) => tokenName(data.tokens[i]);
  if (reason === "after") {
    return [name(key), " stands after ", name(query),
      ". When the model guesses what follows ", name(query),
      ", the rest of the text is not there yet, so it must not read on. " +
      "The mask puts −∞ in the place of the score, and e to the −∞ is 0: ",
      "the weight is 0, however large the score."];
  }
  return [name(key), ` stands ${query - key} tokens before `, name(query),
    `, and this model looks back over ${data.window} tokens, its own ` +
    "included. The mask puts −∞ in the place of the score, and the weight " +
    "is 0."];
}

/** Every key's score, mask and share of the query's attention. */
function softmaxTable(data, row, query, key) {
  const { tokens } = data;
  const rows = tokens.map((token, j) => tableRow(tokenName(token), [
    written(row.scores[j]),
    row.open[j] ? "open" : "−∞",
    row.open[j] ? written(row.powers[j]) : "0",
    row.open[j] ? written(row.weights[j]) : "0",
  ], { "aria-current": j === key ? "true" : null }));
  const table = tableOf(
    ["The row of ", tokenName(tokens[query]), ": softmax"],
    ["key", "score", "mask", "e to the …", "weight"], rows, [
      tableRow("sum", ["", "", written(row.all), written(sum(row.weights))])]);
  const scrolls = tokens.length > MANY_KEYS;
  return element("div", {
    class: "rows", tabindex: scrolls ? 0 : null,
    role: scrolls ? "group" : null,
    "aria-label": scrolls ? "Every key of this row" : null,
  }, table);
}

/** The last line: the chosen weight from these numbers, and the model's. */
function weightLine(row, key, weight) {
  return element("p", { class: "result" },
    `Weight: ${written(row.powers[key])} / ${written(row.all)} = `,
    element("data", { value: row.weights[key] / UNIT },
      written(row.weights[key])),
    `. The model, which rounds nothing on the way, has ${number(weight)}.`);
}

/** The steps from a query and a key to the weight, all with their numbers. */
function sumSteps(data, row, vectors, { query, key, weight }, all, showAll) {
  const D = vectors.query.length;
  const names = {
    query: tokenName(data.tokens[query]), key: tokenName(data.tokens[key]),
  };
  const closed = closedReader(data)(query, key);
  const p = (...words) => element("p", {}, ...words);
  const steps = [
    [p("Multiply number by number, and add.", data.note ? ` ${data.note}` : ""),
      ...productTable(vectors.query, vectors.key, names, all, showAll)],
    [p(`Divide by the square root of ${D}, ${written(row.root)}, so that ` +
      "scores do not grow with the number of products: ",
    `${written(row.totals[key])} / ${written(row.root)} = `,
    element("data", { class: "score" }, written(row.scores[key])), ".")],
    [p(...(closed ? ["The mask is closed. ",
      ...whyClosed(closed, data, query, key)]
      : ["The mask is open: ", tokenName(data.tokens[key]),
        query === key ? " is the query’s own token."
          : " is there when the model reads ",
        query === key ? "" : tokenName(data.tokens[query]),
        query === key ? "" : "."]))],
    [p("Softmax makes shares of the row’s scores: e to the score less " +
      `${written(row.highest)}, the largest open one, divided by the sum.`,
    sum(row.weights) === UNIT ? ""
      : " Each share is rounded, so together they are 1 only nearly."),
    softmaxTable(data, row, query, key),
    closed ? null : weightLine(row, key, weight)],
  ];
  return element("ol", { class: "sum" }, ...steps.map((step) =>
    element("li", {}, ...step.filter(Boolean))));
}

/** The open cell: returns its node and the function that fills it. */
function cellPanel(data, close) {
  const read = { query: vectorReader(data, "queries"),
    key: vectorReader(data, "keys") };
  const title = element("p", { class: "head" });
  const body = element("div");
  const node = element("div", {
    class: "panel", role: "group", tabindex: -1, hidden: true,
    "aria-label": "The sum behind one weight",
  }, title, body);
  let all = false;
  let last = null; // what the panel shows
  node.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    close(true);
  });
  const shut = button("Close", () => close(true));
  const fill = (shown) => {
    last = shown;
    const { layer, head, query, key } = shown;
    const { tokens } = data;
    title.replaceChildren(element("span", {}, tokenName(tokens[query], "query"),
      " asks ", tokenName(tokens[key], "key"), element("span", {
        class: "size" }, `: layer ${layer}, head ${head}, row ${query}, ` +
        `column ${key}`)), shut);
    const q = read.query(layer, head, query);
    const keys = tokens.map((_, j) => read.key(layer, head, j));
    const closed = closedReader(data);
    const row = softmaxRow(q, keys, tokens.map((_, j) => !closed(query, j)));
    const showAll = () => {
      all = !all;
      fill(last);
      body.querySelector("button").focus();
    };
    body.replaceChildren(sumSteps(
      data, row, { query: q, key: keys[key] }, shown, all, showAll));
  };
  return { node, fill };
}

/* ------------------------------------------------------------ the switch */

/** The name of a set of heads, in one order. */
function setName(off) {
  const ranked = [...off].sort(([l, h], [m, i]) => l - m || h - i);
  return ranked.map((pair) => pair.join("-")).join(".");
}

/** Heads in words. */
function headNames(off) {
  return off.map(([layer, head]) => `layer ${layer}, head ${head}`)
    .join(" and ");
}

/** How far a probability's logarithm moves, in nats. */
function natsMoved(before, after) {
  const nats = Math.log(after / before);
  const text = Math.abs(nats).toFixed(3);
  if (Number(text) === 0) return "0.000";
  return `${nats < 0 ? "−" : "+"}${text}`;
}

/** What the switch did to the likeliest token, in a sentence. */
function switchLine(rows, words, off) {
  const [first, before, after] = rows[0];
  const now = rows.reduce((one, other) => (other[2] > one[2] ? other : one));
  const name = (id) => tokenName(words[id]);
  if (!off.length) {
    return ["All heads are on. Likeliest is ", name(first), ", with ",
      element("data", { value: before }, number(before)), "."];
  }
  return [`Without ${headNames(off)}: `, name(first), " goes from ",
    element("data", { value: before, class: "before" }, number(before)),
    " to ", element("data", { value: after, class: "after" }, number(after)),
    ", ", element("data", { value: Math.log(after / before), class: "nats" },
      natsMoved(before, after)), " nats. ",
    ...(now[0] === first ? ["It stays the likeliest."]
      : ["Likeliest is now ", name(now[0]), ", with ", number(now[2]), "."])];
}

/** Bars of the likely tokens, before outlined and after filled. */
function predictionTable(rows, words, off, following) {
  const largest = Math.max(...rows.flatMap(([, p, after]) => [p, after]));
  const bars = (before, after) => {
    const one = element("i", { class: "before" });
    const other = element("i", { class: "after" });
    one.style.width = `${(100 * before) / largest}%`;
    other.style.width = `${(100 * after) / largest}%`;
    return element("div", { class: "bar", "aria-hidden": "true" }, one, other);
  };
  const lines = rows.map(([id, before, after]) => element("tr", {},
    element("th", { scope: "row" }, tokenName(words[id]),
      id === following ? element("span", { class: "fact" }, " in the text")
        : null),
    element("td", {}, bars(before, after)),
    element("td", { class: "amount" }, number(before, 4)),
    element("td", { class: "amount" }, off.length ? number(after, 4) : "")));
  const left = (place) =>
    Math.max(1 - rows.reduce((total, row) => total + row[place], 0), 0);
  lines.push(element("tr", { class: "rest" },
    element("th", { scope: "row" }, "all others"), element("td"),
    element("td", { class: "amount" }, number(left(1), 4)),
    element("td", { class: "amount" }, off.length ? number(left(2), 4) : "")));
  const heads = ["token", "", "all heads on", off.length ? "switched off" : ""];
  return element("table", { class: "candidates guesses" },
    element("thead", {}, element("tr", {}, ...heads.map((name, i) => name
      ? element("th", { scope: "col", class: i > 1 ? "amount" : null }, name)
      : element("td")))),
    element("tbody", {}, ...lines));
}

/** The buttons that switch the open head, or all heads on again. */
function switchButtons(state, live) {
  const toggle = button("", () => {
    const head = [state.get("layer"), state.get("head")];
    const off = state.get("off");
    const others = off.filter((pair) => String(pair) !== String(head));
    const wasOff = others.length < off.length;
    const kept = live ? others : []; // stored: one head at a time
    state.set({ off: wasOff ? others : [...kept, head] });
  });
  const none = button("All heads on", () => {
    toggle.focus(); // this button goes
    state.set({ off: [] });
  });
  const update = (layer, head, off) => {
    const isOff = off.some(([l, h]) => l === layer && h === head);
    toggle.textContent = `Switch layer ${layer}, head ${head} ${
      isOff ? "on again" : "off"}`;
    none.hidden = !off.length || (isOff && off.length === 1);
  };
  return { toggle, none, update };
}

/** The switches of heads, and the next token's distribution beside them. */
function switchPanel(data, state, live) {
  const title = element("p", { class: "head" });
  const said = element("p", { class: "said" });
  const told = element("p", { class: "told", role: "status" }); // not seen
  const table = element("div");
  const buttons = switchButtons(state, live);
  const note = element("p", { class: "legend" },
    "The maps above stay those of the whole model.",
    live ? "" : " This page switches off one head at a time: what then " +
      "follows was computed when it was made.");
  const node = element("div", {
    class: "panel switch", role: "group", "aria-label": "Switch heads off",
  }, title, element("div", { class: "controls" }, buttons.toggle,
    buttons.none), said, told, table, note);
  let shown = null; // which query and heads the table shows
  let heard = ""; // which heads were off when it was last told
  const fill = (layer, head, query, off) => {
    buttons.update(layer, head, off);
    const name = setName(off);
    const ran = state.get("outcome"); // by Python, where it is listening
    const rows = data.singly.rows[name]
      ?? (ran?.name === name ? ran.rows : null);
    const wanted = `${query} ${name} ${Boolean(rows)}`;
    if (wanted === shown) return;
    shown = wanted;
    title.replaceChildren(element("span", {}, "What comes after ",
      tokenName(data.tokens[query], "query"), "?"));
    if (rows) {
      const words = { ...data.singly.words, ...ran?.words };
      const following = data.following[query];
      said.replaceChildren(...switchLine(rows[query], words, off));
      table.replaceChildren(
        predictionTable(rows[query], words, off, following));
    } else {
      said.textContent = `Running the model without ${headNames(off)} …`;
    }
    if (heard !== name && rows) told.textContent = said.textContent;
    if (rows) heard = name;
  };
  return { node, fill };
}
