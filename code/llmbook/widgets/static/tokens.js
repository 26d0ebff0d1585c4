// TokenExplorer: text cut into pre-tokens, whose bytes merge into tokens.

const N_BYTES = 256;
const NONE = 2 ** 30; // the rank of a pair that does not merge
const REMEMBERED = 10_000; // pre-tokens whose tokens are kept
const MOST_BOXES = 1000; // in a row: what a browser draws within a frame
const PLAY_SECONDS = 8; // what playing all merges takes, about,
const FASTEST = 60; // but no step is shorter than this (milliseconds)
const SLOWEST = 700; // nor longer than this
const LABELS = { text: "text", bytes: "bytes", ids: "ids" };
// Characters without a shape of their own, and what shows in their place.
const NAMED = { " ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍" };
const SHAPELESS = /[\p{Z}\p{C}]/gu;

/* ------------------------------------------------------------- encoding */

/** Runs (gap, length less one, gap, …) as the inside of a RegExp class. */
function classOf(runs) {
  const code = (value) => `\\u{${value.toString(16)}}`;
  let [end, text] = [0, ""];
  for (let i = 0; i < runs.length; i += 2) {
    const first = end + runs[i];
    end = first + runs[i + 1];
    text += `${code(first)}-${code(end)}`;
  }
  return text;
}

/**
 * GPT-2's pattern. The classes are written out as Python has them: what a
 * browser calls a letter or a space is another version's, or another rule's.
 */
function patternOf(classes) {
  const L = classOf(classes.letters);
  const N = classOf(classes.numbers);
  const S = classOf(classes.spaces);
  return new RegExp(
    `'s|'t|'re|'ve|'m|'ll|'d| ?[${L}]+| ?[${N}]+| ?[^${S}${L}${N}]+`
    + `|[${S}]+(?![^${S}])|[${S}]+`, "gu");
}

/** The text as bytes, one character (U+0000 to U+00FF) for each byte. */
function byteString(text) {
  let bytes = "";
  for (const value of new TextEncoder().encode(text)) {
    bytes += String.fromCharCode(value);
  }
  return bytes;
}

/** The book's vocabulary, from its merges: left id, right id, and so on. */
function pairVocabulary(merges) {
  const tokens = Array.from({ length: N_BYTES }, (_, i) =>
    String.fromCharCode(i));
  const size = N_BYTES + merges.length / 2;
  const made = new Map();
  const parts = new Map();
  for (let i = 0; i < merges.length; i += 2) {
    const [left, right] = [merges[i], merges[i + 1]];
    made.set(left * size + right, tokens.length);
    parts.set(tokens.length, [left, right]);
    tokens.push(tokens[left] + tokens[right]);
  }
  return {
    tokens, parts,
    first: (byte) => byte.charCodeAt(0),
    join: (left, right) => made.get(left * size + right) ?? NONE,
  };
}

/** A vocabulary in which neighbours merge when their joined bytes are in. */
function tokenVocabulary(tokens) {
  const ids = new Map(tokens.map((token, id) => [token, id]));
  return {
    tokens, parts: new Map(),
    first: (byte) => ids.get(byte),
    join: (left, right) => ids.get(tokens[left] + tokens[right]) ?? NONE,
  };
}

/**
 * Join the two neighbours with the lowest id, leftmost first, as long as
 * that id is below `end`. Returns the ids; adds those it made to `made`.
 */
function mergeBytes(bytes, { first, join }, end = NONE, made = new Set()) {
  const ids = Array.from(bytes, first);
  const after = (i) => i + 1 < ids.length ? join(ids[i], ids[i + 1]) : NONE;
  const joined = ids.map((_, i) => after(i));
  for (;;) {
    let best = 0;
    for (let i = 1; i < joined.length; i++) {
      if (joined[i] < joined[best]) best = i;
    }
    if (!(joined[best] < end)) return ids;
    made.add(joined[best]);
    ids.splice(best, 2, joined[best]);
    joined.splice(best, 1);
    joined[best] = after(best);
    if (best > 0) joined[best - 1] = after(best - 1);
  }
}

/** Text to pre-tokens, each with its bytes, its ids and how they came. */
class PageTokenizer {
  constructor(vocabulary, classes) {
    this.vocabulary = vocabulary;
    this.pattern = patternOf(classes);
    this.known = new Map();
    this.written = new Map();
  }

  /** A token's text with nothing hidden, and its bytes in hexadecimal. */
  write(id) {
    let found = this.written.get(id);
    if (!found) {
      const bytes = this.vocabulary.tokens[id];
      found = { text: visible(bytes), bytes: hex(bytes), ids: String(id) };
      this.written.set(id, found);
    }
    return found;
  }

  piece(text) {
    let found = this.known.get(text);
    if (!found) {
      const bytes = byteString(text);
      const made = new Set();
      const ids = mergeBytes(bytes, this.vocabulary, NONE, made);
      found = { text, bytes, ids, made };
      if (this.known.size >= REMEMBERED) this.known.clear();
      this.known.set(text, found);
    }
    return found;
  }

  pieces(text) {
    return (text.match(this.pattern) ?? []).map((piece) => this.piece(piece));
  }

  encode(text) {
    return this.pieces(text).flatMap(({ ids }) => ids);
  }

  /** The ids that merging makes out of the pieces, the first merge first. */
  merges(pieces) {
    const made = new Set(pieces.flatMap((piece) => [...piece.made]));
    return Uint32Array.from(made).sort();
  }

  /** Each piece's ids when every merge up to id `last` is done. */
  stage(pieces, last) {
    const before = new Map();
    return pieces.map((piece) => {
      if (!before.has(piece)) {
        const ids = mergeBytes(piece.bytes, this.vocabulary, last + 1);
        before.set(piece, ids);
      }
      return before.get(piece);
    });
  }
}

/** GPT-2's tokens: lengths, then bytes, deflated (zlib), in base64. */
async function unpackTokens({ tokens, count }) {
  const packed = Uint8Array.from(atob(tokens), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream()
    .pipeThrough(new DecompressionStream("deflate"));
  const content = new Uint8Array(await new Response(stream).arrayBuffer());
  let at = count;
  return Array.from(content.subarray(0, count), (length) =>
    String.fromCharCode(...content.subarray(at, (at += length))));
}

async function gpt2Tokenizer(data) {
  const vocabulary = tokenVocabulary(await unpackTokens(data));
  return new PageTokenizer(vocabulary, data.classes);
}

/**
 * What a field holds as text that can be encoded: a half of a character
 * becomes U+FFFD, and after `most` characters the text ends.
 */
function cleaned(raw, most) {
  const whole = new TextDecoder("utf-8", { ignoreBOM: true })
    .decode(new TextEncoder().encode(raw.slice(0, 2 * most + 1)));
  const text = Array.from(whole).slice(0, most).join("");
  return { text, cut: text.length < raw.length };
}

/* --------------------------------------------------------------- writing */

/** Bytes in hexadecimal, as Python writes them: E2 82. */
function hex(bytes) {
  return Array.from(bytes, (byte) =>
    byte.charCodeAt(0).toString(16).padStart(2, "0")).join(" ").toUpperCase();
}

/** A token with nothing hidden, as llmbook.widgets.visible writes it. */
function visible(bytes) {
  const values = Uint8Array.from(bytes, (byte) => byte.charCodeAt(0));
  let text;
  try {
    const options = { fatal: true, ignoreBOM: true };
    text = new TextDecoder("utf-8", options).decode(values);
  } catch {
    return `⟨${hex(bytes)}⟩`;
  }
  const shown = text.replace(SHAPELESS, (character) => NAMED[character]
    ?? `⟨U+${character.codePointAt(0).toString(16).toUpperCase()
      .padStart(4, "0")}⟩`);
  return /^\p{M}/u.test(text) ? `◌${shown}` : shown;
}

function count(amount, one, many = `${one}s`) {
  return `${amount.toLocaleString("en")} ${amount === 1 ? one : many}`;
}

function share(part, whole) {
  return whole ? (part / whole).toFixed(2) : "–";
}

/* ------------------------------------------------------------- token row */

/** The first `most` tokens of a stage, and how many others there are. */
function beginning(all, most) {
  const stage = [];
  let left = all.reduce((sum, ids) => sum + ids.length, 0);
  let room = most;
  for (const ids of all) {
    if (room <= 0) break;
    stage.push(ids.length > room ? ids.slice(0, room) : ids);
    room -= stage.at(-1).length;
  }
  left -= most - room;
  return { stage, left };
}

/** Tokens in a row, those of a pre-token together; one at a time is told. */
class TokenRow {
  constructor(name, tell) {
    this.tell = tell;
    this.groups = [];
    this.node = element("div", {
      role: "listbox", class: "tokens", "aria-label": name,
    });
    this.line = element("p", { class: "readout" });
    this.more = element("p", { class: "left" });
    for (const kind of ["pointerover", "focusin", "click"]) {
      this.node.addEventListener(kind, ({ target }) => this.choose(target));
    }
    this.node.addEventListener("keydown", (event) => this.walk(event));
    this.node.addEventListener("pointerleave", () => this.rest());
  }

  /** Show `all` (ids by pre-token) as far as it fits; `lit` is new. */
  show(tokenizer, all, label, lit = -1) {
    this.tokenizer = tokenizer;
    const { stage, left } = beginning(all, MOST_BOXES);
    this.more.hidden = !left;
    const more = count(left, "more token is", "more tokens are");
    this.more.textContent = `${more} counted, not drawn.`;
    const wanted = stage.map((ids) =>
      `${label} ${ids.includes(lit) ? lit : ""} ${ids.join()}`);
    const old = this.groups;
    let start = 0;
    const least = Math.min(old.length, wanted.length);
    while (start < least && old[start].key === wanted[start]) start++;
    let end = 0; // groups at the end that stay as they are
    while (end < least - start
      && old.at(-1 - end).key === wanted.at(-1 - end)) end++;
    const stay = old.length === wanted.length;
    const middle = stage.slice(start, stage.length - end).map((ids, i) => {
      const key = wanted[start + i];
      if (stay && old[start + i].key === key) return old[start + i];
      return { key, ids, node: this.group(ids, label, lit) };
    });
    this.put(start, old.length - end, middle);
    this.node.hidden = !this.groups.length;
    this.rest();
  }

  /** Put `groups` in the place of those from `start` to `end`. */
  put(start, end, groups) {
    const going = this.groups.slice(start, end);
    if (going.length === groups.length) {
      going.forEach(({ node }, i) => {
        if (node !== groups[i].node) node.replaceWith(groups[i].node);
      });
    } else {
      const next = this.groups[end]?.node ?? null;
      for (const { node } of going) node.remove();
      const fragment = document.createDocumentFragment();
      fragment.append(...groups.map(({ node }) => node));
      this.node.insertBefore(fragment, next);
    }
    this.groups.splice(start, end - start, ...groups);
  }

  /** One pre-token: a box for each of its tokens. */
  group(ids, label, lit) {
    const boxes = ids.map((id) => {
      const written = this.tokenizer.write(id);
      const name = `${written.text}, id ${id}, bytes ${written.bytes}`;
      return element("span", {
        class: id === lit ? "box lit" : "box", tabindex: -1, role: "option",
        "aria-label": name,
      }, written[label]);
    });
    return element("span", { class: "pre-token", role: "group" }, ...boxes);
  }

  boxes() {
    return this.node.querySelectorAll(".box");
  }

  /** Tell about the token under the pointer or the focus. */
  choose(target) {
    const box = target.closest?.(".box");
    if (!box) return;
    this.mark(box);
    const place = Array.prototype.indexOf.call(this.boxes(), box);
    const id = this.groups.flatMap(({ ids }) => ids)[place];
    this.line.replaceChildren(...this.tell(id, place));
  }

  /** The chosen box alone takes the focus that Tab brings. */
  mark(box) {
    if (this.chosen && this.chosen !== box) {
      this.chosen.removeAttribute("aria-selected");
      this.chosen.tabIndex = -1;
    }
    this.chosen = box;
    if (!box) return;
    box.setAttribute("aria-selected", "true");
    box.tabIndex = 0;
  }

  /** Nothing is pointed at: the focused token is told, or how to choose. */
  rest() {
    const focused = this.node.querySelector(".box:focus-visible");
    if (focused) return this.choose(focused);
    this.mark(null);
    const first = this.node.querySelector(".box");
    if (first) first.tabIndex = 0;
    this.line.textContent = first
      ? "Rest on a token to see its id and its bytes." : "";
  }

  walk(event) {
    const boxes = [...this.boxes()];
    const at = boxes.indexOf(event.target);
    const next = {
      ArrowLeft: at - 1, ArrowUp: at - 1, ArrowRight: at + 1,
      ArrowDown: at + 1, Home: 0, End: boxes.length - 1,
    }[event.key];
    if (at < 0 || next === undefined) return;
    event.preventDefault();
    boxes[Math.min(Math.max(next, 0), boxes.length - 1)].focus();
  }
}

/** The sentence about one token: text, id, bytes, where it came from. */
function tokenLine(tokenizer, id, place) {
  const { parts } = tokenizer.vocabulary;
  const name = (id) =>
    element("span", { class: "token" }, tokenizer.write(id).text);
  const pair = parts.get(id);
  const origin = pair ? [
    ", joined from ", name(pair[0]), " and ", name(pair[1]),
    ` by the merge of rank ${id - N_BYTES}`,
  ] : [];
  return [
    `Token ${place + 1}: `, name(id), ", id ",
    element("data", { value: id, class: "id" }, String(id)), ", bytes ",
    element("span", { class: "bytes" }, tokenizer.write(id).bytes),
    ...origin, ".",
  ];
}

/* ---------------------------------------------------------------- figure */

/** The field for the text, what it holds, and what was left out of it. */
function textField(data, state) {
  const control = element("textarea", {
    rows: 2, spellcheck: "false", autocapitalize: "off", autocomplete: "off",
  });
  const counts = element("span", { class: "counts" });
  const notice = element("p", { class: "notice", role: "status" });
  let sent = null; // the text that this field stands for
  control.addEventListener("input", () => {
    const { text, cut } = cleaned(control.value, data.max_characters);
    const most = data.max_characters.toLocaleString("en");
    notice.textContent = cut
      ? `Only the first ${most} characters are encoded here.`
      : text !== control.value
        ? "Half a character became U+FFFD: alone it has no bytes." : "";
    sent = text;
    state.set({ text });
  });
  // A notebook around the figure would take the Enter key for its own.
  control.addEventListener("keydown", (event) => event.stopPropagation());
  const update = (text) => {
    if (text === sent) return;
    notice.textContent = "";
    sent = control.value = text;
  };
  const again = button("Start again", () =>
    state.set({ text: data.start, step: null }));
  const node = element("div", { class: "typed" },
    element("label", {}, element("span", { class: "label" }, "Your text"),
      control),
    element("div", { class: "controls" }, counts, again), notice);
  return { node, counts, update };
}

/** A button that does all merges, one after the other, and can be paused. */
function player(at, end, go) {
  let timer = null;
  const pause = () => {
    clearInterval(timer);
    timer = null;
    node.textContent = "Play";
  };
  const tick = () => {
    if (at() < end()) go(at() + 1);
    if (at() >= end()) pause();
  };
  const node = button("Play", () => {
    if (timer !== null) return pause();
    if (at() >= end()) go(0);
    const wait = 1000 * PLAY_SECONDS / end();
    timer = setInterval(tick, Math.min(Math.max(wait, FASTEST), SLOWEST));
    node.textContent = "Pause";
  });
  return { node, pause };
}

/** Play, back, slider, next; all of them set the step. */
function stepControls(state, stops) {
  let last = 0;
  const at = () => Math.min(state.get("step") ?? last, last);
  const go = (step) => state.set({ step: step >= last ? null : step });
  const play = player(at, () => last, go);
  const byHand = (step) => () => {
    play.pause();
    go(Math.max(step(), 0));
  };
  const range = slider(0, 0, 1);
  range.setAttribute("aria-label", "Merges done");
  range.addEventListener("input", byHand(() => Number(range.value)));
  const back = button("Back", byHand(() => at() - 1));
  const next = button("Next", byHand(() => at() + 1));
  stops.push(play.pause);
  const update = (steps, said) => {
    last = range.max = steps;
    range.value = at();
    range.setAttribute("aria-valuetext", said);
    range.disabled = play.node.disabled = last === 0;
    back.disabled = at() === 0;
    next.disabled = at() === last;
  };
  const node = element("div", { class: "steps" },
    play.node, back, range, next);
  return { node, update };
}

/** What the present merge is, and what it has done. */
function mergeLine(tokenizer, { steps, at, made, stage }) {
  const size = count(stage.flat().length, "token");
  if (!steps.length) return [`No merge applies: ${size}.`];
  if (at === 0) return [`No merge done yet, every byte is a token: ${size}.`];
  const { parts } = tokenizer.vocabulary;
  const name = (id) =>
    element("span", { class: "token" }, tokenizer.write(id).text);
  const [left, right] = parts.get(made);
  return [
    `Step ${at} of ${steps.length}: `, name(left), " + ", name(right), " → ",
    name(made), `, rank ${made - N_BYTES} among `,
    `${count(parts.size, "merge")}. Now ${size}.`,
  ];
}

/** How far both tokenizers squeeze the text. */
function comparison(names) {
  const rows = names.map((name) => {
    const cells = [1, 2, 3].map(() => element("td", { class: "amount" }));
    const row = element("tr", {},
      element("th", { scope: "row" }, name), ...cells);
    const update = (tokens, characters, bytes) => {
      cells[0].textContent = tokens.toLocaleString("en");
      cells[1].textContent = share(characters, tokens);
      cells[2].textContent = share(bytes, tokens);
    };
    return { row, update };
  });
  const heads = ["tokens", "characters per token", "bytes per token"];
  const node = element("table", {
    class: "comparison", "aria-label": "Both encodings",
  }, element("thead", {}, element("tr", {}, element("td"),
    ...heads.map((name) =>
      element("th", { scope: "col", class: "amount" }, name)))),
  element("tbody", {}, ...rows.map(({ row }) => row)));
  return { node, rows };
}

/** The ids as Python writes a list, to be copied and compared. */
function idLists(names) {
  const lists = names.map((name) => {
    const node = element("code", {});
    return { name, node };
  });
  const node = element("details", {},
    element("summary", {}, "The ids as lists, to compare with Python"),
    ...lists.map((list) =>
      element("p", { class: "ids" }, `${list.name}: `, list.node)));
  return { node, lists };
}

/** The line above a row of tokens: whose they are, how many it knows. */
function rowHead(name, size, ...more) {
  return element("div", { class: "head" }, element("span", {}, name,
    size ? element("span", { class: "size" }, `, ${count(size, "token")}`)
      : null), ...more);
}

function legend() {
  return element("p", { class: "legend" },
    element("i", { class: "pre-token" }), "a pre-token: no token crosses it",
    element("i", { class: "lit" }), "made in this step");
}

/** Everything that is seen; `redraw` answers another kind of label. */
function tokenParts(root, data, state, stops, redraw) {
  const names = ["This book’s tokenizer", "GPT-2’s tokenizer"];
  const row = (name) => {
    const node = new TokenRow(`Tokens of ${name}`, (...at) =>
      tokenLine(node.tokenizer, ...at));
    return node;
  };
  const [book, other] = names.map(row);
  const typed = textField(data, state);
  const steps = stepControls(state, stops);
  const said = element("p", { class: "merge", role: "status" });
  const kinds = select(Object.values(LABELS), redraw);
  const compared = comparison(names);
  const ids = idLists(names);
  root.append(
    typed.node, element("p", { class: "try" }, data.hint),
    rowHead(names[0], data.vocab_size, field("Boxes show", kinds)),
    steps.node, said, book.node, book.more, book.line, legend(),
    rowHead(names[1], data.gpt2?.vocab_size),
    other.node, other.more, other.line, compared.node, ids.node);
  const label = () => Object.keys(LABELS)[Number(kinds.value)];
  return { typed, steps, said, book, other, compared, ids, label };
}

/** The text cut and merged, as far as the step says. */
function bookView(book, text, step) {
  const pieces = book.pieces(text);
  const steps = book.merges(pieces);
  const at = Math.min(step ?? steps.length, steps.length);
  const made = at ? steps[at - 1] : N_BYTES - 1; // below: the bytes alone
  const whole = pieces.map(({ ids }) => ids);
  const stage = at < steps.length ? book.stage(pieces, made) : whole;
  return { pieces, steps, at, made, whole, stage };
}

/** Build the figure in `root`; returns the function that redraws it. */
function drawTokens(root, data, state, stops) {
  const book = new PageTokenizer(pairVocabulary(data.merges), data.classes);
  const parts = tokenParts(root, data, state, stops, update);
  let gpt2 = null;
  parts.other.line.textContent = data.gpt2
    ? "Unpacking GPT-2’s vocabulary …"
    : "GPT-2’s vocabulary was not at hand when this figure was made.";
  if (data.gpt2) {
    gpt2Tokenizer(data.gpt2).then((tokenizer) => {
      gpt2 = tokenizer;
      update();
    });
  }

  function total(place, ids, sizes) {
    parts.compared.rows[place].update(ids.length, ...sizes);
    parts.ids.lists[place].node.textContent = `[${ids.join(", ")}]`;
  }

  function update() {
    const text = state.get("text");
    const label = parts.label();
    const view = bookView(book, text, state.get("step"));
    const sizes = [Array.from(text).length, byteString(text).length];
    parts.typed.update(text);
    parts.typed.counts.textContent = [
      count(sizes[0], "character"), count(sizes[1], "byte"),
      count(view.pieces.length, "pre-token")].join(", ");
    parts.book.show(book, view.stage, label, view.at ? view.made : -1);
    parts.said.replaceChildren(...mergeLine(book, view));
    parts.steps.update(view.steps.length, parts.said.textContent);
    total(0, view.whole.flat(), sizes);
    if (!gpt2) return;
    const ids = gpt2.pieces(text).map((piece) => piece.ids);
    parts.other.show(gpt2, ids, label);
    total(1, ids.flat(), sizes);
  }

  return update;
}

const KIND = "tokens";
const NAMES = ["text", "step"];
const DRAW = drawTokens;
