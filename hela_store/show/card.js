"use strict";
// One cell as two pictures: as acquired, and with outlines. Used by the report and by the explorer.
const Card = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const LAYERS = ["truth", "prompt", "prediction", "before"];

  function node(name, attributes, ...children) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function picture(card, outlines) {
    const { width, height } = card;
    const view = node("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
    const label = node("title", {});
    label.textContent = card.cell + (outlines ? ", with outlines" : ", as acquired");
    view.append(label, node("image", { href: card.image, width, height, preserveAspectRatio: "none" }));
    if (!outlines) return view;
    for (const layer of LAYERS) if (card[layer]) view.append(node("path", { class: layer, d: card[layer] }));
    for (const [x, y, kind] of card.points || []) {
      view.append(node("circle", { class: kind ? "prompt" : "prompt background", cx: x, cy: y, r: width / 32 }));
    }
    return view;
  }

  function draw(card, lines) {
    const figure = document.createElement("figure");
    figure.className = "card";
    figure.dataset.cell = card.cell;
    const pair = document.createElement("div");
    pair.className = "pair";
    if (card.strip) {
      const strip = document.createElement("img");
      strip.src = card.strip;
      strip.alt = `${card.cell}, with the frames before and after`;
      pair.append(strip);
    } else {
      pair.append(picture(card, false), picture(card, true));
    }
    const caption = document.createElement("figcaption");
    const name = document.createElement("b");
    name.textContent = card.cell;
    caption.append(name);
    for (const line of lines) {
      const row = document.createElement("div");
      row.className = "facts";
      row.textContent = line;
      caption.append(row);
    }
    figure.append(pair, caption);
    return figure;
  }

  // Checkboxes that show and hide the layers below `target`; they are the legend too.
  function layers(box, target, shown) {
    for (const layer of shown) {
      const label = document.createElement("label");
      const input = document.createElement("input");
      input.type = "checkbox";
      input.checked = true;
      input.addEventListener("change", () => target.classList.toggle(`hide-${layer}`, !input.checked));
      const sample = node("svg", { viewBox: "0 0 24 10" }, node("line", { class: layer, x1: 1, y1: 5, x2: 23, y2: 5 }));
      label.append(input, " ", sample, " ", layer);
      box.append(label);
    }
  }

  return { draw, layers };
})();
