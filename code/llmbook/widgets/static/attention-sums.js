// What stands behind one attention weight, in whole ten-thousandths: each
// step starts from what the step before has shown, so that all adds up. The
// same as attention_sums.py.

const PLACES = 4; // decimals that are shown
const UNIT = 10 ** PLACES;

/** The nearest whole number; halves go away from zero. */
function rounded(x) {
  return Math.sign(x) * Math.floor(Math.abs(x) + 0.5) || 0;
}

/** An amount as it is shown. */
function written(amount) {
  const text = (Math.abs(amount) / UNIT).toFixed(PLACES);
  return amount < 0 ? `−${text}` : text;
}

function sum(amounts) {
  return amounts.reduce((total, amount) => total + amount, 0);
}

/** The vector of (layer, head, token) from "queries" or "keys". */
function vectorReader(data, name) {
  const all = unpacked(data[name], "Int32");
  const T = data.tokens.length;
  const D = all.length / (data.n_layer * data.n_head * T);
  return (layer, head, token) => {
    const at = ((layer * data.n_head + head) * T + token) * D;
    return [...all.subarray(at, at + D)];
  };
}

/** The products of two vectors, number by number. */
function products(query, key) {
  return query.map((a, i) => rounded((a * key[i]) / UNIT));
}

/** The way from a query and the keys to the query's weights. */
function softmaxRow(query, keys, open) {
  const root = rounded(Math.sqrt(query.length) * UNIT);
  const totals = keys.map((key) => sum(products(query, key)));
  const scores = totals.map((total) => rounded((total * UNIT) / root));
  const highest = Math.max(...scores.filter((_, i) => open[i]));
  const powers = scores.map((score, i) =>
    open[i] ? rounded(UNIT * Math.exp((score - highest) / UNIT)) : 0);
  const all = sum(powers);
  const weights = powers.map((power) => rounded((power * UNIT) / all));
  return { root, totals, scores, open, highest, powers, all, weights };
}
