"use strict";
(() => {
  const { charts, cards } = JSON.parse(document.getElementById("data").textContent);
  const STEP = 60;
  const NAMES = {
    predicted_iou: ["predicted IoU"], prompt_iou: ["prompt's own IoU"], diameter: ["diameter", "px"], time: ["frame"],
    mean_intensity: ["brightness", "counts"], boundary_iou: ["boundary IoU"], hd95: ["HD95", "px"], failure: ["failure:"],
  };
  const brushes = new Map();
  const views = [];
  let shown = STEP;
  const at = (id) => document.getElementById(id);

  function text(value) {
    return typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(3)).toString() : String(value);
  }

  function lines(card) {
    const facts = card.facts;
    const scores = ["iou", "dice"].map((name) => `${name === "iou" ? "IoU" : "Dice"} ${facts[name].toFixed(3)}`);
    if (facts.before !== undefined) scores.push(`before ${facts.before.toFixed(3)}`);
    const other = Object.keys(facts).filter((name) => !["iou", "dice", "before", "change"].includes(name) && facts[name] !== "");
    const more = other.map((name) => [(NAMES[name] ?? [name])[0], text(facts[name]), ...(NAMES[name] ?? []).slice(1)].join(" "));
    if (card.touching) more.push("touching");
    return [`${card.prompt_kind} · ${card.run}` + (card.old ? `, before: ${card.old}` : ""), scores.join(" · "), more.join(" · ")];
  }

  function passes(card) {
    if (at("tag").value !== "all" && !card.tags.includes(at("tag").value)) return false;
    if (at("prompt").value !== "all" && card.prompt_kind !== at("prompt").value) return false;
    for (const { where, ranges } of brushes.values()) {
      if (where.prompt && where.prompt !== card.prompt_kind) return false;
      for (const [name, [low, high]] of Object.entries(ranges)) {
        const value = card.facts[name];
        if (value === undefined || value < Math.min(low, high) || value > Math.max(low, high)) return false;
      }
    }
    return true;
  }

  function show() {
    const [name, sign] = at("sort").value.split(" ");
    const key = (card) => card.facts[name] ?? Infinity;
    const found = cards.filter(passes).sort((a, b) => (key(a) - key(b) || (a.cell < b.cell ? -1 : 1)) * Number(sign));
    at("cards").replaceChildren(...found.slice(0, shown).map((card) => Card.draw(card, lines(card))));
    at("count").textContent = `${found.length} of ${cards.length} cards` + (brushes.size ? ", filtered by charts" : "");
    at("more").hidden = found.length <= shown;
    at("clear").disabled = brushes.size === 0;
  }

  function fill(id, options) {
    for (const [value, label] of options) at(id).add(new Option(label, value));
    at(id).addEventListener("change", () => { shown = STEP; show(); });
  }

  function start() {
    const tags = ["worst", "median", "changed", "random"].filter((tag) => cards.some((card) => card.tags.includes(tag)));
    fill("tag", [["all", "all"], ...tags.map((tag) => [tag, tag === "changed" ? "most changed" : tag])]);
    fill("prompt", [["all", "all"], ...[...new Set(cards.map((card) => card.prompt_kind))].map((kind) => [kind, kind])]);
    const sorts = [["iou 1", "IoU, worst first"], ["iou -1", "IoU, best first"], ["diameter 1", "size, smallest first"]];
    if (tags.includes("changed")) sorts.splice(2, 0, ["change 1", "change, most worsened first"], ["change -1", "change, most improved first"]);
    fill("sort", sorts);
    Card.layers(at("layers"), at("cards"), ["truth", "prompt", "prediction", "before"].filter((layer) => cards.some((card) => card[layer] || (layer === "prompt" && card.points.length))));
    at("more").addEventListener("click", () => { shown += STEP; show(); });
    at("clear").addEventListener("click", async () => {
      brushes.clear();
      await Promise.all(charts.map((chart, i) => (chart.brush ? draw(i) : null)));
      show();
    });
    addEventListener("beforeprint", show);
    show();
  }

  async function draw(i) {
    const place = document.querySelector(`[data-chart="${i}"]`);
    const actions = { export: true, source: false, compiled: false, editor: false };
    views[i]?.finalize();
    const { view } = await vegaEmbed(place, charts[i].spec, { renderer: "svg", actions });
    views[i] = view;
    if (!charts[i].brush || !cards.length) return;
    let waiting = 0;
    view.addSignalListener("brush", (_, ranges) => {
      if (Object.keys(ranges).length) brushes.set(i, { where: charts[i].where, ranges });
      else brushes.delete(i);
      cancelAnimationFrame(waiting);
      waiting = requestAnimationFrame(() => { shown = STEP; show(); });
    });
  }

  if (cards.length) start();
  const done = charts.map((_, i) => draw(i).catch((error) => console.error(`chart ${i}: ${error}`)));
  Promise.all(done).then(() => { document.documentElement.dataset.ready = "yes"; });
})();
