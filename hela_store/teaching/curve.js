// The learning curve of the session: IoU on the cells set aside over the cells taught, with its band, and what is expected.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 240, HEIGHT = 120, EDGE = 26;

function node(name, attributes, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// `curve`: {points: [{cells, iou, low, high}], ahead: [{cells, iou, low, high}]}
export function drawCurve(box, curve) {
  const key = JSON.stringify(curve);
  if (box.dataset.drawn === key) return;
  box.dataset.drawn = key;
  box.replaceChildren();
  const all = [...curve.points, ...curve.ahead];
  if (!curve.points.length) return;
  const most = Math.max(...all.map((p) => p.cells), 1);
  const low = Math.min(...all.map((p) => p.low ?? p.iou)), high = Math.max(...all.map((p) => p.high ?? p.iou));
  const span = Math.max(high - low, 0.02), base = (low + high - span) / 2;
  const x = (cells) => EDGE + ((WIDTH - EDGE - 6) * cells) / most;
  const y = (iou) => HEIGHT - 16 - ((HEIGHT - 26) * (iou - base)) / span;
  const svg = node("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "IoU over cells taught" });
  for (const iou of [base, base + span]) {
    svg.append(node("line", { class: "axis", x1: EDGE, x2: WIDTH - 6, y1: y(iou), y2: y(iou) }));
    svg.append(node("text", { x: 0, y: y(iou) + 3 }, iou.toFixed(2)));
  }
  svg.append(node("text", { x: EDGE, y: HEIGHT - 3 }, "0"), node("text", { x: WIDTH - 6, y: HEIGHT - 3, "text-anchor": "end" }, `${most} cells`));
  const line = (points) => points.map((p, i) => `${i ? "L" : "M"}${x(p.cells)} ${y(p.iou)}`).join("");
  const band = (points) => {
    const there = points.filter((p) => p.low !== null && p.high !== null);
    if (there.length < 2) return;
    const upper = there.map((p) => `${x(p.cells)} ${y(p.high)}`), lower = there.map((p) => `${x(p.cells)} ${y(p.low)}`).reverse();
    svg.append(node("path", { class: "band", d: `M${[...upper, ...lower].join("L")}Z` }));
  };
  band(curve.points);
  if (curve.ahead.length) band([curve.points.at(-1), ...curve.ahead]);
  svg.append(node("path", { class: "line", d: line(curve.points) }));
  if (curve.ahead.length) svg.append(node("path", { class: "line ahead", d: line([curve.points.at(-1), ...curve.ahead]) }));
  for (const p of curve.points) svg.append(node("circle", { cx: x(p.cells), cy: y(p.iou), r: 2.6 }));
  box.append(svg);
}
