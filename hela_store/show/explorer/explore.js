"use strict";
(() => {
  const LIMIT = 100;
  const CARDS = 60;
  const at = (id) => document.getElementById(id);
  const EXAMPLES = [
    ["Means of every run", "SELECT run, checkpoint, prompt, split, count(*) AS n, avg(iou) AS iou, avg(dice) AS dice\nFROM cell_metrics GROUP BY ALL ORDER BY iou DESC"],
    ["Worst cells, with outlines", "SELECT cell, run, prompt, prompt_seed, iou, dice, diameter, touches_neighbour\nFROM cell_metrics WHERE split = 'test' ORDER BY iou"],
    ["Most changed since zero-shot", "SELECT a.cell, a.run, a.prompt, a.prompt_seed, b.iou AS before, a.iou, a.iou - b.iou AS change\nFROM cell_metrics a JOIN cell_metrics b USING (cell, prompt, prompt_seed)\nWHERE a.checkpoint <> 'zero-shot' AND b.checkpoint = 'zero-shot'\nORDER BY abs(change) DESC"],
    ["Sure and wrong", "SELECT cell, run, prompt, prompt_seed, iou, predicted_iou\nFROM cell_metrics WHERE iou < 0.7 ORDER BY predicted_iou - iou DESC"],
    ["IoU by frame", "SELECT frame, prompt, count(*) AS n, avg(iou) AS iou, min(iou) AS worst\nFROM cell_metrics GROUP BY ALL ORDER BY frame, prompt"],
    ["Suspicious labels of audits", "SELECT run, suspect, rank, score, kind, reason, cell, frame, split, x0, y0\nFROM suspects ORDER BY run DESC, rank"],
    ["All labelled cells", "SELECT cell, frame, area, diameter, eccentricity, mean_intensity, touches_neighbour FROM cells"],
    ["Frames", "FROM frames"],
  ];
  const KEYWORDS = "SELECT FROM WHERE GROUP BY ALL ORDER HAVING JOIN LEFT USING ON AS WITH LIMIT DISTINCT AND OR NOT NULL IS IN BETWEEN CASE WHEN THEN ELSE END DESC ASC UNION count avg median min max sum round quantile_cont".split(" ");
  let words = [];
  let state = null;
  let running = null;
  let leave = null;
  let turn = 0;

  async function call(path, body, signal) {
    const options = body && { signal, method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
    const reply = await fetch(path, options);
    const type = reply.headers.get("content-type") || "";
    const found = type.includes("json") ? await reply.json() : { error: await reply.text() };
    if (!reply.ok) throw new Error(found.error || reply.statusText);
    return found;
  }

  function say(text, wrong = false) {
    at("message").textContent = text;
    at("message").classList.toggle("error", wrong);
  }

  function made(name, text, className) {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;
    if (className) node.className = className;
    return node;
  }

  async function run(change) {
    const mine = ++turn;
    const wanted = { sql: at("sql").value, offset: 0, order: "", descending: false, total: null, ...change };
    // nobody waits for an answer that another question has overtaken
    leave?.abort();
    if (running) await call("stop", { id: running });
    if (mine !== turn) return;
    leave = new AbortController();
    running = crypto.randomUUID();
    at("stop").disabled = false;
    say("running …");
    const began = performance.now();
    const { sql, offset, order, descending } = wanted;
    try {
      const found = await call("query", { id: running, sql, offset, order, descending, limit: LIMIT, count: wanted.total === null }, leave.signal);
      if (mine !== turn) return;
      state = { ...wanted, total: found.total ?? wanted.total, columns: found.columns };
      say(`${state.total.toLocaleString("en")} rows, ${((performance.now() - began) / 1000).toFixed(2)} s`);
      table(found);
      await pictures(found, mine);
    } catch (error) {
      if (mine === turn) say(error.message, true);
    } finally {
      if (mine === turn) {
        running = null;
        at("stop").disabled = true;
      }
    }
  }

  function text(value) {
    if (value === null) return "NULL";
    if (typeof value === "number" && !Number.isInteger(value)) return String(Number(value.toPrecision(6)));
    return String(value);
  }

  function table({ columns, types, rows }) {
    const numeric = types.map((type) => /INT|DOUBLE|FLOAT|DECIMAL/.test(type) && !type.endsWith("]"));
    const head = made("tr");
    columns.forEach((name, i) => {
      const cell = made("th", undefined, numeric[i] ? "number" : "");
      const mark = state.order === name ? (state.descending ? " ▼" : " ▲") : "";
      const button = made("button", name + mark);
      button.type = "button";
      button.title = `${types[i]}; click to sort`;
      button.addEventListener("click", () => again({ offset: 0, order: name, descending: state.order === name && !state.descending }));
      if (mark) cell.ariaSort = state.descending ? "descending" : "ascending";
      cell.append(button);
      head.append(cell);
    });
    const body = made("tbody");
    for (const row of rows) {
      const line = made("tr");
      row.forEach((value, i) => {
        const cell = made("td", text(value), value === null ? "null" : numeric[i] ? "number" : "");
        if (typeof value === "string" && value.length > 40) cell.title = value;
        line.append(cell);
      });
      body.append(line);
    }
    const top = made("thead");
    top.append(head);
    const whole = made("table");
    whole.append(top, body);
    at("table").replaceChildren(whole);
    at("table").scrollTop = 0;
    const last = state.offset + rows.length;
    at("pager").hidden = state.total <= LIMIT;
    at("where").textContent = rows.length ? `rows ${(state.offset + 1).toLocaleString("en")} to ${last.toLocaleString("en")} of ${state.total.toLocaleString("en")}` : "no rows";
    at("previous").disabled = state.offset === 0;
    at("next").disabled = last >= state.total;
  }

  // The same query, another part of it: what the box holds by now may be something else.
  // It follows what was asked last, which may not have been answered yet: two clicks are two steps.
  function again(change) {
    state = { ...state, ...change };
    const { sql, offset, order, descending, total } = state;
    return run({ sql, offset, order, descending, total });
  }

  async function pictures({ columns, rows }, mine) {
    const place = Math.max(columns.indexOf("cell"), columns.indexOf("suspect"));
    at("pictures").hidden = place < 0 || !rows.length;
    if (at("pictures").hidden) return;
    const few = rows.slice(0, CARDS).map((row) => Object.fromEntries(columns.map((name, i) => [name, row[i]])));
    const asked = few.filter((row) => typeof row.cell === "string" || typeof row.suspect === "string");
    const { cards } = await call("cards", { rows: asked.map(({ cell, run, prompt, prompt_seed, suspect }) => ({ cell, run, prompt, prompt_seed, suspect })) });
    if (mine !== turn) return;
    at("few").textContent = rows.length > CARDS ? `the first ${CARDS} rows of this page` : "";
    at("cards").replaceChildren(...cards.flatMap((card, i) => (card ? [drawn(card, asked[i])] : [])));
  }

  function drawn(card, row) {
    const numbers = Object.entries(row).filter(([name, value]) => name !== "cell" && name !== "run" && value !== null);
    const figure = Card.draw(card, [...(row.run ? [row.run] : []), numbers.slice(0, 8).map(([name, value]) => `${name.replaceAll("_", " ")} ${text(value)}`).join(" · ")]);
    if (typeof row.cell !== "string") return figure;
    const asked = Object.fromEntries(["cell", "run", "prompt", "prompt_seed"].filter((name) => row[name] !== undefined && row[name] !== null).map((name) => [name, row[name]]));
    const whole = made("a", "whole frame", "whole");
    whole.href = `frame?${new URLSearchParams(asked)}`;
    const cell = `'${card.cell.replaceAll("'", "''")}'`;
    const history = asking("history over all runs", `SELECT cell, prompt, prompt_seed, iou, dice, predicted_iou, split, run, checkpoint\nFROM cell_metrics WHERE cell = ${cell} ORDER BY run, prompt, prompt_seed`);
    // vectors of one encoder only: that of the run of vectors that began last
    const like = asking("cells like this one", `SELECT b.cell, array_cosine_similarity(a.vector, b.vector) AS similarity, c.area, c.diameter\nFROM cell_vectors a JOIN cell_vectors b USING (encoder) JOIN cells c ON c.cell = b.cell\nWHERE a.cell = ${cell} AND b.cell <> a.cell AND a.checkpoint IS NULL AND b.checkpoint IS NULL\nAND encoder = (SELECT encoder FROM cell_vectors WHERE cell = ${cell} AND checkpoint IS NULL ORDER BY run DESC LIMIT 1)\nORDER BY similarity DESC LIMIT 20`, `the cells have no vectors yet; run \`hela-store similar ${card.cell} -s NAME\` once, then ask again`);
    figure.querySelector("figcaption").append(history, " ", like, " ", whole);
    return figure;
  }

  // A button that asks a question; `nothing` is said where the answer is empty.
  function asking(name, sql, nothing = "") {
    const button = made("button", name);
    button.type = "button";
    button.addEventListener("click", async () => {
      scrollTo({ top: 0 });
      at("sql").value = sql;
      await run();
      if (nothing && state.sql === sql && state.total === 0) say(nothing, true);
    });
    return button;
  }

  // Completion of the word before the caret.
  let hints = [];
  let chosen = 0;

  function word() {
    const before = at("sql").value.slice(0, at("sql").selectionStart);
    return /[A-Za-z_]\w*$/.exec(before)?.[0] ?? "";
  }

  function complete() {
    const typed = word().toLowerCase();
    hints = typed ? words.filter(({ name }) => name.toLowerCase().startsWith(typed) && name.toLowerCase() !== typed).slice(0, 8) : [];
    chosen = 0;
    showHints();
  }

  function showHints() {
    at("hints").hidden = !hints.length;
    at("hints").replaceChildren(...hints.map(({ name, about }, i) => {
      const line = made("div", name);
      line.role = "option";
      line.ariaSelected = String(i === chosen);
      line.append(made("small", about));
      line.addEventListener("mousedown", (event) => { event.preventDefault(); chosen = i; accept(); });
      return line;
    }));
  }

  function accept() {
    const box = at("sql");
    const end = box.selectionStart;
    box.setRangeText(hints[chosen].name, end - word().length, end, "end");
    hints = [];
    showHints();
  }

  function key(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      run();
    } else if (hints.length && ["Tab", "ArrowDown", "ArrowUp", "Escape"].includes(event.key)) {
      event.preventDefault();
      if (event.key === "Tab") accept();
      else if (event.key === "Escape") hints = [];
      else chosen = (chosen + (event.key === "ArrowDown" ? 1 : hints.length - 1)) % hints.length;
      showHints();
    }
  }

  async function start() {
    for (const [name, sql] of EXAMPLES) at("examples").add(new Option(name, sql));
    at("examples").addEventListener("change", () => { at("sql").value = at("examples").value; run(); });
    at("form").addEventListener("submit", (event) => { event.preventDefault(); run(); });
    at("stop").addEventListener("click", () => running && call("stop", { id: running }));
    at("previous").addEventListener("click", () => again({ offset: Math.max(0, state.offset - LIMIT) }));
    at("next").addEventListener("click", () => again({ offset: state.offset + LIMIT }));
    at("sql").addEventListener("input", complete);
    at("sql").addEventListener("keydown", key);
    at("sql").addEventListener("blur", () => { hints = []; showHints(); });
    Card.layers(at("layers"), at("cards"), ["truth", "prompt", "prediction"]);
    at("sql").value = EXAMPLES[0][1];
    const { columns, name } = await call("names");
    at("store").textContent = name;
    document.title = `${name} · hela-store explore`;
    const tables = Map.groupBy ? Map.groupBy(columns, ({ table }) => table) : new Map();
    if (!Map.groupBy) for (const each of columns) tables.set(each.table, [...(tables.get(each.table) ?? []), each]);
    const seen = new Map();
    for (const { table, column, type } of columns) seen.set(column, seen.has(column) ? `${seen.get(column)}, ${table}` : `${type}, ${table}`);
    words = [...[...tables.keys()].map((each) => ({ name: each, about: "table" })), ...[...seen].map(([each, about]) => ({ name: each, about })), ...KEYWORDS.map((each) => ({ name: each, about: "" }))];
    for (const [title, list] of tables) {
      const items = made("ul");
      for (const { column, type, comment } of list) items.append(made("li", `${column}: ${type}${comment ? `. ${comment}` : ""}`));
      at("columns").append(made("h3", title), items);
    }
    await run();
    document.documentElement.dataset.ready = "yes";
  }

  start().catch((error) => say(error.message, true));
})();
