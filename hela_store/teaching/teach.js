// The page: what it shows, and what keys and pointer do. Masks are decoded, and labels are kept, by the server.
import { Refused, get, leave, picture, post } from "./api.js";
import { keys, showSheet } from "./keys.js";
import { decode, encode } from "./mask.js";
import { Panel } from "./panel.js";
import { Tools } from "./tools.js";
import { Viewer } from "./viewer.js";

const POLL = 1500; // ms between two questions for what others, or the training, did

const byId = (id) => document.getElementById(id);

export class Page {
  constructor() {
    this.state = null; // what the server last told
    this.frame = null; // the frame that is shown
    this.waiting = Promise.resolve(); // edits go one after the other
    this.pending = 0;
    this.since = performance.now();
    this.tools = new Tools(this);
    this.viewer = new Viewer(byId("view"), this.tools.does);
    this.panel = new Panel(this);
    keys(this);
  }

  async start() {
    await this.refresh();
    const ready = this.state.frames.filter((frame) => frame.embedded);
    const first = ready.find((frame) => frame.block === "train") || ready[0] || this.state.frames[0];
    await this.open(new URLSearchParams(location.search).get("frame") || first.frame);
    this.saved("yes", "saved");
    addEventListener("pagehide", leave);
    setInterval(() => this.refresh().catch((error) => this.fail(error)), POLL);
    document.documentElement.dataset.ready = "yes";
  }

  // What others and the training did since; a frame that they changed is read again.
  async refresh() {
    const found = await get("state", { frame: this.frame?.frame || "" });
    this.state = found;
    this.panel.show(this.state);
    if (this.lost) {
      this.lost = false;
      this.saved("yes", "saved");
      this.tell("");
    }
    if (this.frame && found.version !== this.version && !this.pending && !this.tools.painting) await this.reload();
    // what a new decoder would answer differently is let go of, but no drag is cut short for it
    if (!this.viewer.press && found.decoder !== this.decoder) {
      this.decoder = found.decoder;
      this.tools.forget();
    }
  }

  async open(name) {
    const frame = this.state.frames.find((each) => each.frame === name);
    if (!frame) return;
    const number = (this.opening = (this.opening || 0) + 1);
    const image = await picture("image", { frame: name });
    if (number !== this.opening) return;
    this.frame = frame;
    this.cells = new Map();
    this.tools.forget();
    this.viewer.show(frame, image);
    this.panel.chosen();
    await this.reload();
    if (!frame.embedded) this.tell(`${name} is not embedded yet: its labels can be seen, but no mask can be decoded.`);
    else if (frame.block !== "train") this.tell(`${name} is in the ${frame.block} block: what is labelled here never trains the decoder.`);
    else this.tell("");
  }

  async reload() {
    const name = this.frame.frame;
    const found = await get("cells", { frame: name });
    if (this.frame.frame !== name) return;
    this.version = found.version;
    this.cells = new Map(found.cells.map((cell) => [cell.cell, this.cellOf(cell)]));
    this.proposed = [];
    this.drawCells();
    if (byId("proposals").checked) await this.propose();
  }

  cellOf(cell) {
    return { ...cell, mask: decode(cell.counts, this.frame.height) };
  }

  async propose() {
    const name = this.frame.frame;
    if (!this.frame.embedded) return;
    const found = await get("proposals", { frame: name });
    if (this.frame.frame !== name) return;
    this.proposed = found.proposals.map((each, i) => ({ ...this.cellOf(each), cell: `proposal ${i}`, proposal: true }));
    for (const [cell, about] of Object.entries(found.cells)) Object.assign(this.cells.get(Number(cell)) || {}, about);
    if (found.note) this.tell(found.note);
    this.drawCells();
  }

  drawCells() {
    const shown = byId("proposals").checked ? this.proposed : [];
    this.viewer.setCells([...this.cells.values(), ...shown]);
    this.panel.cell();
  }

  seconds() {
    const spent = (performance.now() - this.since) / 1000;
    return Math.round(Math.min(spent, 600) * 10) / 10;
  }

  // Save edits one after the other; "saved" is shown when the last one has been answered, which is after it is durable.
  save(path, body) {
    this.pending++;
    this.saved("", "saving");
    const frame = this.frame.frame;
    const turn = this.waiting.then(async () => {
      const found = await post(path, { frame, version: this.version, seconds: this.seconds(), ...body });
      this.since = performance.now();
      if (this.frame.frame === found.frame) await this.take(found);
      if (this.pending === 1) this.saved("yes", "saved");
      return found;
    });
    const ended = turn.catch(async (error) => {
      this.saved("no", "NOT saved");
      this.tell(`Not saved: ${error.message}`, true);
      if (error.status === 409) await this.refreshAll();
    }).finally(() => this.pending--);
    this.waiting = ended.then(() => undefined);
    return ended;
  }

  async refreshAll() {
    this.state = await get("state", { frame: this.frame.frame });
    this.panel.show(this.state);
    await this.reload();
  }

  async take(found) {
    this.panel.learned(found);
    // another page saved something between, or more than these cells changed
    if (found.whole || found.base !== this.version) return this.reload();
    this.version = found.version;
    for (const cell of found.gone) this.cells.delete(cell);
    for (const cell of found.cells) this.cells.set(cell.cell, this.cellOf(cell));
    const kept = this.viewer.selected;
    for (const cell of [...kept]) if (!this.cells.has(cell)) kept.delete(cell);
    this.drawCells();
    return undefined;
  }

  async history(way) {
    const found = await this.save(way, {});
    if (!found) return;
    this.tell("");
    if (found.frame && found.frame !== this.frame.frame) await this.open(found.frame);
    else if (!found.whole && byId("proposals").checked) await this.propose();
  }

  encoded(mask) {
    return encode(mask, this.frame.height, this.frame.width);
  }

  async next() {
    this.tell("Looking for the next cell.");
    const found = await post("next", { frame: this.frame.frame }).catch((error) => this.fail(error));
    if (!found) return;
    if (!found.frame) return this.tell(found.told);
    if (found.frame !== this.frame.frame) await this.open(found.frame);
    const [x, y, size] = found.place;
    this.viewer.centre(x, y, size);
    this.tools.offer(decode(found.counts, this.frame.height), found);
    this.since = performance.now();
    this.tell("");
  }

  // Show the next suspicious label of the latest audit, with what is proposed for it.
  async suspect() {
    this.tell("Looking for the next suspicious label.");
    const found = await post("suspect", { after: this.rank || 0 }).catch((error) => this.fail(error));
    if (!found) return;
    this.rank = found.frame ? found.rank : 0;
    if (!found.frame) return this.tell(found.told);
    if (found.frame !== this.frame.frame) await this.open(found.frame);
    const [x, y, size] = found.place;
    this.viewer.centre(x, y, size);
    this.tools.doubt(found.counts ? decode(found.counts, this.frame.height) : null, found);
    this.since = performance.now();
    this.tell("");
  }

  step(by) {
    const at = this.state.frames.findIndex((frame) => frame.frame === this.frame.frame) + by;
    if (this.state.frames[at]) this.open(this.state.frames[at].frame).catch((error) => this.fail(error));
  }

  saved(how, text) {
    byId("saved").className = how;
    byId("saved").textContent = text;
  }

  tell(text, isError = false) {
    byId("told").textContent = text || "";
    byId("told").hidden = !text;
    byId("told").classList.toggle("error", isError);
  }

  fail(error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Refused)) throw error;
    if (error.status === 0) {
      this.lost = true;
      this.saved("no", "no connection");
    }
    this.tell(error.message, true);
  }
}

const page = new Page();
byId("help").addEventListener("click", showSheet);
page.start().catch((error) => page.fail(error));
