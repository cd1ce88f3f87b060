// What stands around the canvas: frames, how the frame looks, the cell, and what was learned.
import { address, post } from "./api.js";
import { drawCurve } from "./curve.js";
import { COLOURS } from "./viewer.js";

const byId = (id) => document.getElementById(id);

export class Panel {
  constructor(page) {
    this.page = page;
    for (const name of COLOURS) byId("colours").append(new Option(name, name));
    const look = () => this.look();
    for (const id of ["contrast", "brightness", "invert"]) byId(id).addEventListener("input", look);
    byId("colours").addEventListener("input", () => this.colours());
    byId("outlines").addEventListener("input", () => {
      page.viewer.outlines = byId("outlines").checked;
      page.viewer.draw();
    });
    byId("proposals").addEventListener("input", () => this.proposals());
    byId("doubt").addEventListener("input", () => this.doubt());
    this.doubt();
    for (const button of document.querySelectorAll("#tools button")) {
      button.addEventListener("click", () => {
        const { tool, act } = button.dataset;
        if (tool) page.tools.choose(tool);
        else page.tools.act(act).catch((error) => page.fail(error));
        page.viewer.moving.focus({ preventScroll: true });
      });
    }
    byId("undo").addEventListener("click", () => page.history("undo"));
    byId("redo").addEventListener("click", () => page.history("redo"));
    byId("before").addEventListener("click", () => page.step(-1));
    byId("after").addEventListener("click", () => page.step(1));
    byId("slider").addEventListener("input", () => {
      page.open(page.state.frames[byId("slider").valueAsNumber].frame).catch((error) => page.fail(error));
    });
    byId("retune").addEventListener("click", () => {
      post("retune").then((found) => this.learned(found)).catch((error) => page.fail(error));
    });
    this.tool();
  }

  look() {
    const { picture } = this.page.viewer;
    const inverted = byId("invert").checked ? "invert(1) " : "";
    picture.style.filter = `${inverted}brightness(${byId("brightness").value}) contrast(${byId("contrast").value})`;
  }

  colours() {
    this.page.viewer.by = byId("colours").value;
    const judged = byId("colours").value !== "label";
    if (judged && !byId("proposals").checked) byId("proposals").click();
    this.page.viewer.draw();
  }

  nextColours() {
    byId("colours").selectedIndex = (byId("colours").selectedIndex + 1) % COLOURS.length;
    this.colours();
  }

  proposals() {
    if (byId("proposals").checked) this.page.propose().catch((error) => this.page.fail(error));
    else this.page.drawCells();
  }

  doubt() {
    byId("doubt-value").textContent = byId("doubt").valueAsNumber.toFixed(2);
  }

  async acceptAll() {
    if (!byId("proposals").checked) byId("proposals").checked = true;
    await this.page.propose();
    const found = await this.page.save("accept", { doubt: byId("doubt").valueAsNumber });
    if (found) this.page.tell(found.told);
    await this.page.reload();
  }

  tool() {
    for (const button of document.querySelectorAll("#tools button[data-tool]")) {
      button.setAttribute("aria-pressed", String(button.dataset.tool === this.page.tools.tool));
    }
  }

  cell(over = null, doubt = null, rule = "") {
    if (this.page.tools.suspect) return void this.suspect(this.page.tools.suspect);
    const cell = over || this.page.tools.current;
    const { length } = [...this.page.viewer.selected];
    if (doubt !== null) {
      byId("cell").textContent = `${rule ? `Offered (${rule}). Enter accepts it. ` : "Click takes this mask. "}Doubt ${doubt.toFixed(2)}.`;
    } else if (!over && length > 1) {
      byId("cell").textContent = `${length} cells chosen. M merges them, Del deletes them.`;
    } else if (cell) {
      const facts = [cell.taught ? `taught${cell.who ? ` by ${cell.who}` : ""}` : "from the data set"];
      if (cell.held) facts.push("set aside: this nucleus judges, and is trained on in no frame");
      for (const name of ["doubt", "iou"]) if (cell[name] !== undefined && cell[name] !== null) facts.push(`${name === "iou" ? "IoU with its proposal" : name} ${cell[name].toFixed(2)}`);
      byId("cell").textContent = `Cell ${cell.label}: ${facts.join("; ")}.`;
    } else {
      byId("cell").textContent = "Point at a cell and click.";
    }
  }

  suspect({ rank, score, reason, cell, kind, counts }) {
    const what = cell === null ? "A place without a label" : `Cell ${cell}`;
    const does = kind === "debris" && cell !== null ? "Enter deletes it" : counts ? "Enter takes the yellow mask" : "Correct it by hand";
    const keeps = cell === null ? "K passes it over" : "K keeps the label";
    byId("cell").textContent = `Suspect ${rank}, chance of a fault ${score.toFixed(2)}. ${what}: ${reason}. ${does}, ${keeps}, J goes on.`;
  }

  show(state) {
    byId("store").textContent = state.store;
    document.title = `${state.store} – hela-store teach`;
    this.frames(state.frames);
    this.learned(state);
    byId("others").textContent = [state.others, state.encoding].filter(Boolean).join(". ");
  }

  learned({ learning, undo, redo }) {
    byId("undo").disabled = !undo;
    byId("redo").disabled = !redo;
    byId("taught").textContent = `${learning.taught} cells taught, ${learning.held} of them set aside to judge.`;
    byId("until").max = learning.every;
    byId("until").value = Math.min(learning.every, learning.since);
    byId("tuning").textContent = learning.told;
    byId("retune").disabled = learning.running;
    byId("rule").textContent = learning.rule;
    byId("forecast").textContent = learning.forecast;
    drawCurve(byId("curve"), learning.curve);
  }

  frames(frames) {
    const box = byId("frames");
    byId("slider").max = frames.length - 1;
    if (box.children.length !== frames.length) {
      box.replaceChildren(...frames.map((frame) => this.thumbnail(frame)));
      this.chosen();
    }
    frames.forEach((frame, i) => {
      const button = box.children[i], state = `${frame.embedded ? `${frame.cells} cells` : "not embedded yet"}${frame.block === "train" ? "" : `, ${frame.block}`}`;
      button.classList.toggle("waiting", !frame.embedded);
      button.querySelector("small").textContent = frame.taught ? `${frame.taught} taught, ${state}` : state;
      if (this.page.frame?.frame === frame.frame) this.page.frame.embedded = frame.embedded;
    });
  }

  thumbnail(frame) {
    const button = document.createElement("button"), image = new Image(), name = document.createElement("b");
    button.type = "button";
    button.dataset.frame = frame.frame;
    button.title = frame.frame;
    image.loading = "lazy";
    image.alt = "";
    image.src = address("thumbnail", { frame: frame.frame });
    name.textContent = frame.frame;
    button.append(image, name, document.createElement("small"));
    button.addEventListener("click", () => this.page.open(frame.frame).catch((error) => this.page.fail(error)));
    return button;
  }

  chosen() {
    const { frame, state } = this.page;
    if (!frame) return;
    const at = state.frames.findIndex((each) => each.frame === frame.frame);
    byId("slider").value = at;
    byId("where").textContent = `${frame.frame}  ${at + 1} / ${state.frames.length}`;
    for (const button of byId("frames").children) {
      const own = button.dataset.frame === frame.frame;
      button.setAttribute("aria-current", String(own));
      if (own) button.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
  }
}
