// Everything by keyboard; the sheet on "?" is made of this list.

const byId = (id) => document.getElementById(id);

const SHEET = [
  ["hover", "show the mask of the cell below"],
  ["click", "take that mask; it is saved at once"],
  ["click a cell", "choose it, to correct or delete it"],
  ["right-click, Alt-click", "this does not belong to the chosen cell"],
  ["Shift-click", "this belongs to it; on a cell: choose it too"],
  ["drag", "draw a box around a cell"],
  ["B, E, V", "brush, eraser, back to picking"],
  ["[, ]", "smaller, larger brush"],
  ["S", "split: draw a line through the cell"],
  ["M", "merge the chosen cells"],
  ["Del", "delete the chosen cells"],
  ["Enter", "accept what is shown or offered"],
  ["N", "next: offer the next cell"],
  ["J", "next suspicious label of the latest audit; Enter accepts what is proposed"],
  ["K", "keep the suspicious label as it is"],
  ["A", "accept all proposals up to the doubt set"],
  ["P", "show proposals or hide them"],
  ["Ctrl-Z, Ctrl-Y", "undo, redo, also after a restart"],
  ["R", "retune the decoder now"],
  ["wheel, + and -", "zoom; 0 shows the whole frame"],
  ["Space and drag", "pan; so does the middle button"],
  ["arrows", "move the frame"],
  [". and ,", "frame after, frame before"],
  ["X", "take the cell in the middle of the view"],
  ["C", "next way to colour the outlines"],
  ["H, I", "hide outlines, invert"],
  ["Esc", "let go of everything"],
  ["touch", "tap: click; hold: not here; two fingers: zoom"],
];

export function showSheet() {
  const list = byId("list");
  if (!list.children.length) {
    for (const [key, text] of SHEET) {
      const row = document.createElement("div"), name = document.createElement("kbd");
      name.textContent = key;
      row.append(name, text);
      list.append(row);
    }
    byId("close").addEventListener("click", () => byId("sheet").close());
  }
  if (byId("sheet").open) byId("sheet").close();
  else byId("sheet").showModal();
}

export function keys(page) {
  const { tools } = page;
  const toggle = (id) => () => byId(id).click();
  const arrows = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
  const plain = {
    b: () => tools.choose("brush"), e: () => tools.choose("erase"), v: () => tools.choose("pick"),
    s: () => tools.choose("split"), m: () => tools.act("merge"), n: () => tools.act("next"), a: () => tools.act("all"),
    j: () => tools.act("suspect"), k: () => tools.act("keep"),
    r: toggle("retune"), p: toggle("proposals"), h: toggle("outlines"), i: toggle("invert"),
    c: () => page.panel.nextColours(), "?": showSheet, Enter: () => tools.act("accept"),
    Delete: () => tools.act("erase"), Backspace: () => tools.act("erase"), Escape: () => tools.escape(),
    "[": () => brush(1 / 1.25), "]": () => brush(1.25), ".": () => page.step(1), ",": () => page.step(-1),
    "+": () => page.viewer.zoomAt(1.3), "=": () => page.viewer.zoomAt(1.3), "-": () => page.viewer.zoomAt(1 / 1.3),
    0: () => page.viewer.fit(),
    x: () => {
      const [x, y] = page.viewer.at(page.viewer.width / 2, page.viewer.height / 2);
      return tools.click(x, y, {}, false);
    },
  };
  const brush = (factor) => {
    tools.brush = Math.min(100, Math.max(1, tools.brush * factor));
    tools.draw();
  };
  document.addEventListener("keydown", (event) => {
    if (byId("sheet").open && event.key !== "?") return;
    const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) && event.target.type !== "checkbox";
    if (event.ctrlKey || event.metaKey) {
      const key = event.key.toLowerCase();
      if (key !== "z" && key !== "y") return;
      event.preventDefault();
      page.history(key === "y" || event.shiftKey ? "redo" : "undo");
      return;
    }
    if (event.altKey || typing) return;
    if (event.key === "Enter" && event.target.tagName === "BUTTON") return;
    if (event.key === " ") {
      if (event.target.tagName === "BUTTON") return;
      page.viewer.panning = true;
      event.preventDefault();
    } else if (arrows[event.key]) {
      page.viewer.pan(...arrows[event.key]);
      event.preventDefault();
    } else {
      const act = plain[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      if (!act) return;
      event.preventDefault();
      Promise.resolve(act()).catch((error) => page.fail(error));
    }
  });
  document.addEventListener("keyup", (event) => { if (event.key === " ") page.viewer.panning = false; });
}
