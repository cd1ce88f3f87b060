// The worst frames: each is drawn when it comes into view.
import { decode } from "./mask.js";
import { COLOURS, Viewer } from "./viewer.js";

const { frames } = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const shown = [];

function told(cell) {
  if (!cell) return "";
  return `${cell.name}${cell.iou === null || cell.iou === undefined ? "" : `, IoU ${cell.iou.toFixed(3)}`}`;
}

function draw({ viewer, frame }) {
  const { cells, predictions } = frame;
  viewer.by = byId("frame-colours").value;
  viewer.setCells([...(byId("frame-labels").checked ? cells : []), ...(byId("frame-predictions").checked ? predictions : [])]);
}

async function begin(box) {
  const frame = frames[Number(box.dataset.frame)], image = new Image();
  image.src = frame.image;
  await image.decode();
  for (const cell of [...frame.cells, ...frame.predictions]) cell.mask = decode(cell.counts, frame.height);
  const say = box.parentElement.querySelector(".told");
  const viewer = new Viewer(box, {
    gentle: true,
    hover: (x, y) => { say.textContent = told(viewer.cellAt(x, y) || viewer.proposalAt(x, y)); },
    leave: () => { say.textContent = ""; },
  });
  viewer.show({ width: frame.width, height: frame.height }, image);
  shown.push({ viewer, frame });
  draw(shown.at(-1));
  box.dataset.drawn = "yes";
}

if (frames.length) {
  for (const name of COLOURS) byId("frame-colours").append(new Option(name, name));
  byId("frame-colours").value = "prediction";
  for (const id of ["frame-colours", "frame-labels", "frame-predictions"]) {
    byId(id).addEventListener("input", () => shown.forEach(draw));
  }
  const watch = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) {
      if (!isIntersecting) continue;
      watch.unobserve(target);
      begin(target);
    }
  }, { rootMargin: "200px" });
  for (const box of document.querySelectorAll("[data-frame]")) watch.observe(box);
}
