// The time machine's loss curve: the axis on which its slider travels.

const CURVE = { height: 200, left: 40, right: 10, top: 22, low: 20 };
const LABEL_SPACE = 46; // pixels that a step's number takes on the axis
const MARK_SPACE = 14; // pixels between the names of two levels
const RULES = [0.5, 1, 2, 4]; // nats between two numbers of the loss axis

/** A number with its thousands apart: 1,250. */
function steps(count) {
  return count.toLocaleString("en");
}

/** How a place on the time axis and a loss become pixels. */
function curveScale(data, width) {
  const { height, left, right, top, low } = CURVE;
  const last = data.steps.length - 1;
  const all = [...data.at, ...Object.values(data.marks)];
  const highest = 1.1 * Math.max(...all, 1e-3);
  return {
    highest,
    x: (place) => left + (place / last) * (width - left - right),
    y: (loss) => height - low
      - (Math.min(loss, highest) / highest) * (height - top - low),
  };
}

function curveText(x, y, anchor, words) {
  return shape("text", { x, y, "text-anchor": anchor }, words);
}

/** The losses' axis: a number at every rule, at most five of them. */
function lossAxis({ highest, y }, width) {
  const rule = RULES.find((r) => highest / r <= 5) ?? Math.ceil(highest / 5);
  const count = Math.floor(highest / rule) + 1;
  return Array.from({ length: count }, (_, i) => i * rule).flatMap((loss) => [
    shape("line", { class: "rule", x1: CURVE.left, x2: width - CURVE.right,
      y1: y(loss), y2: y(loss) }),
    curveText(CURVE.left - 6, y(loss) + 4, "end", String(loss)),
  ]);
}

/** The steps' axis: as many moments as have room, the last one always. */
function stepAxis(data, { x }, width) {
  const last = data.steps.length - 1;
  const room = (width - CURVE.left - CURVE.right) / last;
  const stride = Math.ceil(LABEL_SPACE / room);
  return data.steps.flatMap((count, m) => (last - m) % stride ? [] : [
    curveText(x(m), CURVE.height - 5, m === last ? "end" : "middle",
      steps(count))]);
}

/** Levels to compare with, each with its name where the curve is not. */
function levelLines(data, { x, y }) {
  const [left, right] = [x(0), x(data.steps.length - 1)];
  const end = data.curve.at(-1)[1];
  const named = [];
  return Object.entries(data.marks).flatMap(([name, level]) => {
    const above = level > end;
    const line = shape("line", { class: "level", x1: left, x2: right,
      y1: y(level), y2: y(level) });
    if (named.some((at) => Math.abs(at - y(level)) < MARK_SPACE)) return line;
    named.push(y(level));
    return [line, curveText(above ? right : left + 4, y(level) - 4,
      above ? "end" : "start", name)];
  });
}

/** The curve at a width; `update` moves the mark, `at` reads the pointer. */
function drawnCurve(data, width) {
  const scale = curveScale(data, width);
  const { x, y } = scale;
  const points = data.curve.map(([place, loss]) => `${x(place)},${y(loss)}`);
  const now = shape("line", { class: "now", y1: CURVE.top,
    y2: CURVE.height - CURVE.low });
  const mark = shape("circle", { class: "mark", r: 6 });
  const nodes = [
    curveText(0, 11, "start", "loss, nats a token"),
    ...lossAxis(scale, width), ...stepAxis(data, scale, width),
    ...levelLines(data, scale), now,
    shape("polyline", { class: "line", points: points.join(" ") }),
    ...data.held_out.map(([place, loss]) =>
      shape("circle", { class: "dot", cx: x(place), cy: y(loss), r: 2.2 })),
    ...data.at.map((loss, m) =>
      shape("circle", { class: "ring", cx: x(m), cy: y(loss), r: 3.5 })),
    mark];
  const update = (moment) => {
    mark.setAttribute("cx", x(moment));
    mark.setAttribute("cy", y(data.at[moment]));
    now.setAttribute("x1", x(moment));
    now.setAttribute("x2", x(moment));
  };
  const at = (pixel) => {
    const share = (pixel - x(0)) / (x(1) - x(0));
    return Math.min(Math.max(Math.round(share), 0), data.steps.length - 1);
  };
  return { nodes, update, at };
}

/** The curve with its slider below it, both on one axis. */
function travel(data, chosen) {
  const svg = shape("svg", { class: "loss-curve", role: "img" });
  const control = slider(0, data.steps.length - 1, 1);
  control.addEventListener("input", () => chosen(Number(control.value)));
  const node = element("div", { class: "travel" }, svg,
    field("Step", control));
  let curve = null;
  const point = (event) => {
    if (event.buttons !== 1 || !curve) return;
    chosen(curve.at(event.clientX - svg.getBoundingClientRect().left));
  };
  svg.addEventListener("pointerdown", (event) => {
    svg.setPointerCapture(event.pointerId); // a drag may leave the curve
    point(event);
  });
  svg.addEventListener("pointermove", point);
  const resize = (width) => {
    curve = drawnCurve(data, width);
    svg.setAttribute("viewBox", `0 0 ${width} ${CURVE.height}`);
    svg.replaceChildren(...curve.nodes);
  };
  const update = (moment) => {
    control.value = moment;
    const step = `step ${steps(data.steps[moment])}`;
    control.setAttribute("aria-valuetext", step);
    svg.setAttribute("aria-label",
      `Training loss, from ${data.at[0].toFixed(2)} to ${
        data.at.at(-1).toFixed(2)} nats a token; marked: ${
        data.at[moment].toFixed(2)} at ${step}`);
    curve?.update(moment);
  };
  return { node, update, resize };
}
