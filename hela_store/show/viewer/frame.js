// One frame, read-only: its labels, the predictions of a run, and the cell that was asked for in the middle.
import { decode } from "./mask.js";
import { COLOURS, Viewer } from "./viewer.js";

const byId = (id) => document.getElementById(id);
const viewer = new Viewer(byId("view"), { hover: (x, y) => say(viewer.cellAt(x, y) || viewer.proposalAt(x, y)) });
let found = null;

function say(cell) {
  const iou = (value) => (value === null || value === undefined ? "" : `, IoU ${value.toFixed(3)}`);
  const many = found.predictions.length ? `, ${found.predictions.length} predictions of run ${found.run}` : "";
  byId("cell").textContent = cell ? `${cell.name}${iou(cell.iou)}` : `${found.cells.length} labelled cells${many}`;
}

function draw() {
  const cells = byId("truth").checked ? found.cells : [];
  viewer.by = byId("colours").value;
  viewer.setCells([...cells, ...(byId("predicted").checked ? found.predictions : [])]);
}

function look() {
  viewer.picture.style.filter = `${byId("invert").checked ? "invert(1) " : ""}contrast(${byId("contrast").value})`;
}

async function start() {
  const reply = await fetch(`frame-cells${location.search}`);
  found = await reply.json();
  if (!reply.ok) throw new Error(found.error);
  const image = new Image();
  image.src = `image?${new URLSearchParams({ frame: found.frame })}`;
  await image.decode();
  for (const cell of [...found.cells, ...found.predictions]) cell.mask = decode(cell.counts, found.height);
  byId("name").textContent = found.frame;
  byId("version").textContent = found.version || "";
  document.title = `${found.frame} – hela-store`;
  viewer.show({ width: found.width, height: found.height }, image);
  draw();
  const asked = found.cells.find((cell) => cell.name === found.cell);
  if (asked) {
    viewer.selected.add(asked.cell);
    const { x, y, w, h } = asked.mask;
    requestAnimationFrame(() => viewer.centre(x + w / 2, y + h / 2, Math.max(w, h)));
  }
  say(asked);
  document.documentElement.dataset.ready = "yes";
}

for (const name of COLOURS) byId("colours").append(new Option(name, name));
for (const id of ["colours", "truth", "predicted"]) byId(id).addEventListener("input", draw);
for (const id of ["contrast", "invert"]) byId(id).addEventListener("input", look);
start().catch((error) => { byId("cell").textContent = error.message; });
