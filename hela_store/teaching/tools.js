// What the pointer does: hover shows a mask, a click takes it, and what was taken can be corrected.
// Every correction is saved at once, as a new event of the cell; nothing waits in the page.
import { post } from "./api.js";
import { area, empty, decode, holds, outline, painted } from "./mask.js";

const DEBOUNCE = 25; // ms that the pointer has to rest

export class Tools {
  constructor(page) {
    this.page = page;
    this.tool = "pick";
    this.brush = 6; // px of the frame
    this.number = 0;
    this.forget();
    this.does = {
      hover: (x, y) => this.hover(x, y),
      leave: () => this.leave(),
      click: (x, y, event, right) => this.click(x, y, event, right).catch((error) => this.page.fail(error)),
      drag: (from, to, event, done) => this.drag(from, to, event, done).catch((error) => this.page.fail(error)),
      cancel: () => { this.line = this.painting = null; this.draw(); },
      draws: () => this.tool !== "pick" && this.tool !== "minus",
    };
  }

  get viewer() { return this.page.viewer; }

  // The cell that corrections are about: the one selected last.
  get current() { return this.page.cells?.get([...this.viewer.selected].at(-1)); }

  forget() {
    this.abort();
    this.suspect = null;
    this.shown = this.line = this.painting = null;
    this.prompts = new Map(); // what made the cells of this visit
    this.page.viewer?.selected.clear();
    if (this.page.viewer) this.draw();
  }

  abort() {
    clearTimeout(this.timer);
    this.asking?.abort();
    this.number++;
  }

  choose(tool) {
    this.abort();
    this.viewer.end();
    this.tool = tool;
    this.suspect = this.shown = this.line = this.painting = null;
    this.draw();
    this.page.tell("");
    this.page.panel.tool();
  }

  hover(x, y) {
    this.pointer = [x, y];
    if (this.tool !== "pick" || this.suspect) return this.draw();
    if (this.shown?.offered && holds(this.shown.mask, x, y)) return;
    this.abort();
    const over = this.viewer.cellAt(x, y);
    if (over) {
      this.shown = null;
      this.draw();
      return this.page.panel.cell(over);
    }
    if (!this.inFrame(x, y) || !this.page.frame.embedded) return this.leave();
    this.timer = setTimeout(() => this.preview({ points: [[x, y, 1]] }), DEBOUNCE);
  }

  leave() {
    this.abort();
    if (this.shown?.offered) return;
    this.shown = null;
    this.pointer = null;
    this.draw();
  }

  inFrame(x, y) {
    return x >= 0 && y >= 0 && x < this.page.frame.width && y < this.page.frame.height;
  }

  // Ask for a mask and show it; null where a later question took its place.
  async preview(prompt) {
    this.asking?.abort();
    this.asking = new AbortController();
    const number = ++this.number, frame = this.page.frame;
    try {
      const found = await post("hover", { frame: frame.frame, number, ...prompt }, this.asking.signal);
      if (found.stale || number !== this.number || frame !== this.page.frame) return null;
      const mask = decode(found.counts, frame.height);
      this.shown = { mask, path: outline(mask), prompt, doubt: found.doubt };
      this.draw();
      this.page.panel.cell(null, found.doubt);
      return this.shown;
    } catch (error) {
      this.page.fail(error);
      return null;
    }
  }

  // Show a mask that the page proposes; Enter takes it.
  offer(mask, about) {
    this.abort();
    this.tool = "pick";
    this.viewer.selected.clear();
    const prompt = { box: about.box, rule: about.rule, random: about.random };
    this.shown = { mask, path: outline(mask), prompt, doubt: about.doubt, offered: true };
    this.viewer.draw();
    this.page.panel.tool();
    this.page.panel.cell(null, about.doubt, about.rule);
  }

  // Show a suspicious label with the mask that is proposed for it; Enter accepts that, K keeps the label.
  doubt(mask, about) {
    this.abort();
    this.tool = "pick";
    this.viewer.selected.clear();
    if (this.page.cells.has(about.cell)) this.viewer.selected.add(about.cell);
    this.shown = mask && { mask, path: outline(mask), prompt: {}, offered: true };
    this.suspect = about;
    this.viewer.draw();
    this.page.panel.tool();
    this.page.panel.suspect(about);
  }

  // Whatever else is done about a suspect ends its turn: the label is then corrected by hand.
  letGo() {
    if (!this.suspect) return;
    this.suspect = this.shown = null;
    this.draw();
    this.page.panel.cell();
  }

  async decide(accept) {
    const about = this.suspect;
    if (!about) return void this.page.tell("Press J for a suspicious label first.");
    this.letGo();
    const { run, suspect } = about;
    // there is no label to keep where one is said to be missing
    const done = !accept && about.cell === null ? true : await this.page.save("decide", { run, suspect, accept });
    if (done) await this.page.suspect();
  }

  async click(x, y, event, right) {
    if (!this.inFrame(x, y)) return undefined;
    this.letGo();
    if (this.tool === "brush" || this.tool === "erase") return this.drag([x, y], [x, y], event, true);
    if (this.tool === "split") return undefined;
    if (right || event.altKey || this.tool === "minus") return this.correct(x, y, 0);
    const over = this.viewer.cellAt(x, y);
    if (over) return this.select(over, event.shiftKey);
    if (event.shiftKey && this.current) return this.correct(x, y, 1);
    if (this.shown?.offered && holds(this.shown.mask, x, y)) return this.accept();
    return this.add(this.same(x, y) ? this.shown : await this.preview({ points: [[x, y, 1]] }));
  }

  same(x, y) {
    const point = this.shown?.prompt.points?.[0];
    return point && !this.shown.offered && Math.hypot(point[0] - x, point[1] - y) < 1;
  }

  select(cell, more) {
    this.page.tell("");
    const chosen = this.viewer.selected;
    if (more && chosen.has(cell.cell)) chosen.delete(cell.cell);
    else {
      if (!more) chosen.clear();
      chosen.add(cell.cell);
    }
    this.viewer.draw();
    this.page.panel.cell();
  }

  async add(shown, prompt = shown?.prompt) {
    if (!shown) return;
    if (!area(shown.mask)) return void this.page.tell("The decoder found no cell there; draw a box, or use the brush.");
    this.shown = null;
    this.draw();
    this.page.panel.cell();
    const found = await this.page.save("edit", { kind: "add", counts: this.page.encoded(shown.mask), prompt });
    if (found) this.made(found, prompt);
  }

  made(found, prompt) {
    const cell = found.cells.at(-1);
    if (!cell || found.frame !== this.page.frame.frame) return;
    this.prompts.set(cell.cell, prompt);
    this.viewer.selected.clear();
    this.viewer.selected.add(cell.cell);
    this.viewer.draw();
    this.page.panel.cell();
  }

  // Add a click, 1 in the cell and 0 beside it, to what made the current cell, and save the decoder's new answer.
  async correct(x, y, label) {
    const cell = this.current;
    if (!cell) return void this.page.tell("Choose a cell first: click it, then click what does not belong to it.");
    const before = this.prompts.get(cell.cell) || { box: boxOf(cell.mask) };
    const prompt = { ...before, points: [...(before.points || []), [x, y, label]] };
    const shown = await this.preview(prompt);
    if (!shown) return;
    this.shown = null;
    this.draw();
    if (!area(shown.mask)) return void this.page.tell("Nothing would be left of the cell; press Del to delete it.");
    await this.replace(cell, shown.mask, prompt);
  }

  async replace(cell, mask, prompt) {
    const found = await this.page.save("edit", { kind: "replace", cell: cell.cell, counts: this.page.encoded(mask), prompt });
    if (found) this.prompts.set(cell.cell, prompt);
  }

  async drag(from, to, event, done) {
    this.letGo();
    this.pointer = to;
    if (this.tool === "pick" || this.tool === "minus") return this.box(from, to, done);
    if (this.tool === "split") return this.split(from, to, done);
    return this.stroke(from, to, done);
  }

  async box(from, to, done) {
    const { width, height } = this.page.frame;
    const x = [from[0], to[0]].map((v) => Math.min(Math.max(v, 0), width)).sort((a, b) => a - b);
    const y = [from[1], to[1]].map((v) => Math.min(Math.max(v, 0), height)).sort((a, b) => a - b);
    this.line = { box: [x[0], y[0], x[1], y[1]] };
    this.draw();
    if (!done) return;
    this.line = null;
    if (x[1] - x[0] < 2 || y[1] - y[0] < 2) return void this.draw();
    await this.add(await this.preview({ box: [x[0], y[0], x[1], y[1]] }));
  }

  async stroke(from, to, done) {
    if (!this.painting) {
      this.painting = { cell: this.current, mask: this.current?.mask || empty(), last: from };
      if (this.tool === "erase" && !this.current) this.painting.mask = null;
    }
    const paint = this.painting;
    if (paint.mask) {
      const [x0, y0] = paint.last, steps = Math.ceil(Math.hypot(to[0] - x0, to[1] - y0) / Math.max(1, this.brush / 2));
      for (let k = 0; k <= steps; k++) {
        const part = steps ? k / steps : 1;
        const at = [x0 + (to[0] - x0) * part, y0 + (to[1] - y0) * part];
        paint.mask = painted(paint.mask, ...at, this.brush, this.tool === "brush" ? 1 : 0, this.page.frame);
      }
      paint.last = to;
    }
    this.draw();
    if (!done) return;
    this.painting = null;
    this.draw();
    await this.painted(paint);
  }

  async painted({ cell, mask }) {
    if (!mask) return void this.page.tell("Choose the cell to erase from: click it with the tool Pick.");
    if (!area(mask)) return void this.page.tell("Nothing would be left of the cell; press Del to delete it.");
    const prompt = { ...(this.prompts.get(cell?.cell) || {}), painted: this.tool };
    if (cell) await this.replace(cell, mask, prompt);
    else await this.add({ mask }, prompt);
  }

  async split(from, to, done) {
    this.line = { line: [from, to] };
    this.draw();
    if (!done) return;
    this.line = null;
    this.draw();
    const middle = [(from[0] + to[0]) / 2, (from[1] + to[1]) / 2];
    const cell = this.viewer.cellAt(...middle) || this.current;
    if (!cell) return void this.page.tell("Draw the line of the split through a cell.");
    if (!(await this.page.save("edit", { kind: "split", cell: cell.cell, line: [from, to] }))) return;
    this.viewer.selected.clear();
    this.choose("pick");
  }

  async act(what) {
    const chosen = [...this.viewer.selected];
    if (what === "suspect") return this.page.suspect();
    if (what === "keep") return this.decide(false);
    if (what === "accept") return this.suspect ? this.decide(true) : this.accept();
    this.letGo();
    if (what === "next") return this.page.next();
    if (what === "all") return this.page.panel.acceptAll();
    if (what === "erase" && !chosen.length) return void this.page.tell("Choose the cells to delete: click them.");
    if (what === "erase") await this.page.save("edit", { kind: "erase", cells: chosen });
    if (what === "merge" && chosen.length < 2) {
      return void this.page.tell("Choose two cells or more to merge: click one, then Shift-click the others.");
    }
    if (what === "merge") {
      const found = await this.page.save("edit", { kind: "merge", cells: chosen });
      if (found) this.made(found, {});
    }
    return undefined;
  }

  // Enter: take what is offered or shown; with a cell chosen, leave it as it is.
  async accept() {
    if (this.shown) {
      const offered = this.shown.offered;
      await this.add(this.shown);
      if (offered) await this.page.next();
      return;
    }
    this.viewer.selected.clear();
    this.viewer.draw();
    this.page.panel.cell();
  }

  escape() {
    this.abort();
    this.suspect = this.shown = this.line = this.painting = null;
    this.viewer.selected.clear();
    this.choose("pick");
    this.viewer.draw();
    this.page.panel.cell();
  }

  draw() {
    this.viewer.live = (context, zoom) => this.drawLive(context, zoom);
    this.viewer.drawLive();
  }

  drawLive(context, zoom) {
    const { shown, painting, line } = this;
    const path = painting?.mask ? outline(painting.mask) : shown?.path;
    for (const [width, stroke] of [[4, "#000a"], [2, shown?.offered ? "#ffd60a" : "#fff"]]) {
      context.lineWidth = width / zoom;
      context.strokeStyle = stroke;
      if (path) context.stroke(path);
      context.beginPath();
      if (line?.box) context.rect(line.box[0], line.box[1], line.box[2] - line.box[0], line.box[3] - line.box[1]);
      if (line?.line) { context.moveTo(...line.line[0]); context.lineTo(...line.line[1]); }
      if (this.pointer && (this.tool === "brush" || this.tool === "erase")) {
        context.arc(...this.pointer, this.brush, 0, 2 * Math.PI);
      }
      context.stroke();
    }
    for (const [x, y, label] of shown?.prompt.points || []) {
      context.beginPath();
      context.arc(x, y, 4 / zoom, 0, 2 * Math.PI);
      context.fillStyle = label ? "#ffd60a" : "#ff3b30";
      context.fill();
    }
  }
}

function boxOf({ x, y, w, h }) {
  return [x, y, x + w, y + h];
}
