// A whole frame on canvases: picture, outlines, and what moves with the pointer. It knows nothing of any server.
// Coordinates are px of the frame; pixel (0, 0) covers 0 to 1.
import { holds, outline } from "./mask.js";

const LEAST_ZOOM = 0.05, MOST_ZOOM = 64;
const MOVED = 4; // px of the screen from which a press is a drag
const LONG_PRESS = 500; // ms after which a touch that stays counts as the right button

export const COLOURS = ["label", "prediction", "doubt", "IoU"];

// Colour of a cell in one of the four ways; null where the cell has nothing to show in that way.
export function colour(cell, by) {
  if (by === "label") return `hsl(${(cell.label * 137.508) % 360} 90% 62%)`;
  if (by === "prediction") return cell.proposal ? "#ff4fa3" : "#2fd07a";
  const value = by === "doubt" ? cell.doubt : cell.iou === null || cell.iou === undefined ? null : 1 - cell.iou;
  if (value === null || value === undefined) return "#8a93a0";
  return `hsl(${130 * (1 - Math.min(1, 2 * value))} 90% 58%)`;
}

export class Viewer {
  // `does`: what to call on hover(x, y), click(x, y, event), drag(from, to, event, done), key presses are the page's;
  // `gentle` leaves wheel and scrolling finger to the page around it
  constructor(root, does = {}) {
    this.root = root;
    this.does = does;
    this.frame = null;
    this.cells = [];
    this.by = "label";
    this.outlines = true;
    this.selected = new Set();
    this.zoom = 1;
    this.left = 0;
    this.top = 0;
    this.live = null; // draws what moves with the pointer
    this.press = null;
    this.touches = new Map();
    for (const name of ["picture", "drawn", "moving"]) {
      this[name] = document.createElement("canvas");
      this[name].className = `layer ${name}`;
      root.append(this[name]);
    }
    this.moving.tabIndex = 0;
    this.moving.setAttribute("role", "application");
    this.moving.setAttribute("aria-label", does.gentle ? "The frame" : "The frame. Press ? for the keys.");
    new ResizeObserver(() => this.resized()).observe(root);
    this.listen();
  }

  listen() {
    const on = (name, act) => this.moving.addEventListener(name, act, { passive: false });
    on("wheel", (event) => {
      // on a page that scrolls, the wheel is the page's until the frame was clicked
      if (this.does.gentle && document.activeElement !== this.moving && !event.ctrlKey) return;
      event.preventDefault();
      this.zoomAt(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), event.offsetX, event.offsetY);
    });
    on("contextmenu", (event) => event.preventDefault());
    on("pointerdown", (event) => this.down(event));
    // a drag may go on, and end, beside the canvas: not every browser keeps to the captured pointer
    const begun = (act) => (event) => { if (event.target === this.moving || this.press || this.touches.size) act(event); };
    addEventListener("pointermove", begun((event) => this.move(event)));
    addEventListener("pointerup", begun((event) => this.up(event)));
    addEventListener("pointercancel", begun((event) => {
      this.touches.delete(event.pointerId);
      this.end();
      this.does.cancel?.();
    }));
    // a finger that is lifted leaves, too, and what it asked for is still wanted
    on("pointerleave", (event) => { if (!this.press && event.pointerType !== "touch") this.does.leave?.(); });
  }

  // Where an event is, px of the screen from the corner of the canvas.
  spot(event) {
    const box = this.moving.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  down(event) {
    if (!this.frame) return;
    const [x, y] = this.spot(event);
    this.moving.focus({ preventScroll: true });
    this.moving.setPointerCapture(event.pointerId);
    const touch = event.pointerType === "touch";
    if (touch) this.touches.set(event.pointerId, [x, y]);
    if (this.touches.size > 1) { this.end(); this.does.cancel?.(); return; }
    const pans = !this.does.drag || event.button === 1 || event.buttons === 4 || this.panning || (touch && !this.does.draws?.());
    this.press = { x, y, last: [x, y], pans, event, moved: false };
    if (touch) {
      this.press.timer = setTimeout(() => {
        if (!this.press || this.press.moved) return;
        this.does.click?.(...this.at(this.press.x, this.press.y), this.press.event, true);
        this.end();
      }, LONG_PRESS);
    }
    event.preventDefault();
  }

  move(event) {
    if (!this.frame) return;
    if (this.touches.size > 1) return void this.pinch(event);
    const press = this.press, [x, y] = this.spot(event), place = this.at(x, y);
    if (!press) return void this.does.hover?.(...place);
    if (!press.moved && Math.hypot(x - press.x, y - press.y) < MOVED) return;
    press.moved = true;
    if (press.pans) {
      this.pan(x - press.last[0], y - press.last[1]);
      press.last = [x, y];
    } else {
      this.does.drag?.(this.at(press.x, press.y), place, press.event, false);
    }
  }

  up(event) {
    this.touches.delete(event.pointerId);
    const press = this.press;
    if (!press) return;
    this.end();
    const place = this.at(...this.spot(event));
    if (press.moved && !press.pans) this.does.drag?.(this.at(press.x, press.y), place, press.event, true);
    else if (!press.moved && press.event.button !== 1) {
      this.does.click?.(...this.at(press.x, press.y), press.event, press.event.button === 2);
    }
  }

  end() {
    clearTimeout(this.press?.timer);
    this.press = null;
  }

  pinch(event) {
    const before = [...this.touches.values()];
    this.touches.set(event.pointerId, this.spot(event));
    const after = [...this.touches.values()];
    const span = ([a, b]) => Math.hypot(a[0] - b[0], a[1] - b[1]) || 1;
    const middle = ([a, b]) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
    const [was, is] = [middle(before), middle(after)];
    this.left += is[0] - was[0];
    this.top += is[1] - was[1];
    this.zoomAt(span(after) / span(before), ...is);
  }

  at(x, y) {
    return [(x - this.left) / this.zoom, (y - this.top) / this.zoom];
  }

  show(frame, picture) {
    this.end(); // a drag that began in the frame before does not go on in this one
    const other = !this.frame || frame.width !== this.frame.width || frame.height !== this.frame.height;
    this.frame = frame;
    this.image = picture;
    this.cells = [];
    this.selected.clear();
    this.live = null;
    if (other) this.fit();
    else this.draw();
  }

  setCells(cells) {
    this.cells = cells;
    for (const cell of cells) cell.path ??= outline(cell.mask);
    this.draw();
  }

  cellAt(x, y) {
    return this.cells.find((cell) => !cell.proposal && holds(cell.mask, x, y));
  }

  proposalAt(x, y) {
    return this.cells.find((cell) => cell.proposal && holds(cell.mask, x, y));
  }

  resized() {
    const ratio = window.devicePixelRatio || 1, box = this.root.getBoundingClientRect();
    if (!box.width || !box.height) return;
    for (const layer of [this.picture, this.drawn, this.moving]) {
      layer.width = Math.round(box.width * ratio);
      layer.height = Math.round(box.height * ratio);
    }
    const fresh = !this.width;
    this.width = box.width;
    this.height = box.height;
    if ((fresh || this.fitted) && this.frame) this.fit();
    else this.draw();
  }

  fit() {
    if (!this.frame || !this.width) return;
    this.zoom = Math.min(this.width / this.frame.width, this.height / this.frame.height) * 0.98;
    this.left = (this.width - this.frame.width * this.zoom) / 2;
    this.top = (this.height - this.frame.height * this.zoom) / 2;
    this.fitted = true;
    this.draw();
  }

  zoomAt(factor, x = this.width / 2, y = this.height / 2) {
    const zoom = Math.min(MOST_ZOOM, Math.max(LEAST_ZOOM, this.zoom * factor));
    this.left = x - ((x - this.left) * zoom) / this.zoom;
    this.top = y - ((y - this.top) * zoom) / this.zoom;
    this.zoom = zoom;
    this.fitted = false;
    this.draw();
  }

  pan(dx, dy) {
    this.fitted = false;
    this.left += dx;
    this.top += dy;
    this.draw();
  }

  // Bring a place to the middle; near enough that a cell of this size, px, can be judged.
  centre(x, y, size) {
    this.zoom = Math.min(MOST_ZOOM, Math.max(this.zoom, Math.min(this.width, this.height) / (6 * size)));
    this.fitted = false;
    this.left = this.width / 2 - x * this.zoom;
    this.top = this.height / 2 - y * this.zoom;
    this.draw();
  }

  draw() {
    if (!this.width || this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => { this.asked = false; this.drawNow(); });
  }

  on(layer) {
    const context = layer.getContext("2d"), ratio = window.devicePixelRatio || 1;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, layer.width, layer.height);
    context.setTransform(this.zoom * ratio, 0, 0, this.zoom * ratio, this.left * ratio, this.top * ratio);
    context.lineCap = "round";
    return context;
  }

  drawNow() {
    const picture = this.on(this.picture);
    picture.imageSmoothingEnabled = this.zoom < 3;
    if (this.image) picture.drawImage(this.image, 0, 0, this.frame.width, this.frame.height);
    const drawn = this.on(this.drawn);
    if (this.outlines) this.drawCells(drawn);
    this.drawLive();
  }

  drawCells(context) {
    const [x0, y0] = this.at(0, 0), [x1, y1] = this.at(this.width, this.height);
    const paths = new Map();
    for (const cell of this.cells) {
      const { x, y, w, h } = cell.mask;
      if (x > x1 || y > y1 || x + w < x0 || y + h < y0) continue;
      const dashed = cell.proposal ? "dashed" : "", key = `${dashed} ${colour(cell, this.by)}`;
      if (!paths.has(key)) paths.set(key, { path: new Path2D(), dashed, stroke: colour(cell, this.by) });
      paths.get(key).path.addPath(cell.path);
    }
    context.lineWidth = 1.6 / this.zoom;
    for (const { path, dashed, stroke } of paths.values()) {
      context.strokeStyle = stroke;
      context.globalAlpha = dashed ? 0.75 : 1;
      context.setLineDash(dashed ? [3 / this.zoom, 3 / this.zoom] : []);
      context.stroke(path);
    }
    context.globalAlpha = 1;
    context.setLineDash([]);
    for (const [width, stroke] of [[6, "#000"], [3, "#fff"]]) {
      context.lineWidth = width / this.zoom;
      context.strokeStyle = stroke;
      for (const cell of this.cells) if (this.selected.has(cell.cell) && !cell.proposal) context.stroke(cell.path);
    }
  }

  drawLive() {
    const context = this.on(this.moving);
    this.live?.(context, this.zoom);
  }
}
