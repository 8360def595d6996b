"use strict";

// --- gallery: which samples are shown, and in which order -----------------------------------------

const ROWS = 6; // rows of a block; blocks far from the window are empty, so that 5,000 images are light
const CAPTION = 46; // pixels under a card's picture
const GAP = 12;
const OUTCOMES = {
  one: [["", "all"], ["pass", "pass"], ["fail", "fail"], ["unscored", "not scored"], ["missing", "image missing"]],
  two: [["", "all pairs"], ["won", "A fails, B passes"], ["lost", "A passes, B fails"], ["pass", "both pass"],
    ["fail", "both fail"], ["unscored", "not scored"], ["missing", "image missing"]],
};

let bench, sideA, sideB, sides = [], found = [], columns = 1, blocks = [], observer;
let form, grid, viewer;

const seen = (side, i) => side.fault[i] !== null;
const value = (side, metric, i) => (side.values[metric] ? side.values[metric][i] : null);

function outcome(side, i) {
  if (side.fault[i]) return "missing";
  const passed = bench.passing ? value(side, bench.passing, i) : null;
  if (passed === null) {
    const metric = form.elements.metric.value;
    return bench.passing || value(side, metric, i) === null ? "unscored" : "";
  }
  return passed === 1 ? "pass" : "fail";
}

function fits(i, wanted) {
  const a = outcome(sideA, i);
  if (!wanted) return true;
  if (!sideB) return a === wanted;
  const b = outcome(sideB, i);
  if (wanted === "won") return a === "fail" && b === "pass";
  if (wanted === "lost") return a === "pass" && b === "fail";
  return wanted === "pass" || wanted === "fail" ? a === wanted && b === wanted : a === wanted || b === wanted;
}

function choose() {
  const { task, outcome: wanted, metric, order, low, high, text } = Object.fromEntries(new FormData(form));
  const needle = text.trim().toLowerCase();
  const from = low === "" ? -Infinity : Number(low);
  const to = high === "" ? Infinity : Number(high);
  found = [];
  for (let i = 0; i < bench.key.length; i += 1) {
    const [, prompt, tag] = bench.prompts[bench.prompt[i]];
    const score = value(sideA, metric, i);
    const inside = (low === "" && high === "") || (score !== null && score >= from && score <= to);
    if (sides.every((side) => seen(side, i)) && inside && (!task || tag === task)
      && prompt.toLowerCase().includes(needle) && fits(i, wanted)) found.push(i);
  }
  const by = {
    high: (i) => -value(sideA, metric, i),
    low: (i) => value(sideA, metric, i),
    gain: (i) => value(sideA, metric, i) - value(sideB, metric, i),
    loss: (i) => value(sideB, metric, i) - value(sideA, metric, i),
  }[order];
  if (by) {
    const known = (i) => value(sideA, metric, i) !== null && (!order.match(/gain|loss/) || value(sideB, metric, i) !== null);
    const keys = new Map(found.map((i) => [i, known(i) ? by(i) : Infinity]));
    found.sort((i, j) => (keys.get(i) === keys.get(j) ? i - j : keys.get(i) - keys.get(j)));
  }
  layOut();
  tell();
  remember();
}

function tell() {
  const total = bench.key.filter((_, i) => sides.every((side) => seen(side, i))).length;
  const what = ["images", "pairs"][sides.length - 1] || "sets";
  const missing = bench.key.filter((_, i) => sides.some((side) => side.fault[i])).length;
  const meaning = bench.passing ? ` Pass means ${bench.passing} is 1.` : "";
  const none = sides.length > 1 && !total ? " The runs share no prompt and seed." : "";
  document.getElementById("count").textContent =
    `${found.length} of ${total} ${what}${missing ? `, ${missing} with a missing image` : ""}.${meaning}${none}`;
}

// --- gallery: blocks of cards ---------------------------------------------------------------------

function layOut() {
  const least = Math.min(sides.length > 1 ? 130 * sides.length : 132, grid.clientWidth);
  columns = Math.max(sides.length > 1 ? 1 : 2, Math.floor((grid.clientWidth + GAP) / (least + GAP)));
  const width = (grid.clientWidth - GAP * (columns - 1)) / columns;
  const first = sideA.size.find((size) => size && size[0]) || [1, 1];
  const picture = Math.round(((width - 2 * (sides.length - 1)) / sides.length * first[1]) / first[0]);
  grid.style.setProperty("--columns", columns);
  grid.style.setProperty("--picture", `${picture}px`);
  grid.style.setProperty("--card", `${picture + CAPTION}px`);
  observer.disconnect();
  const size = ROWS * columns;
  blocks = [];
  for (let start = 0; start < found.length; start += size) {
    const rows = Math.ceil(Math.min(size, found.length - start) / columns);
    const block = el("div", { class: "block", "data-start": start });
    block.style.height = `${rows * (picture + CAPTION + GAP)}px`;
    blocks.push(block);
  }
  grid.replaceChildren(...blocks);
  if (blocks.length) fill(blocks[0]); // seen at once; the others when they come near
  if (!found.length) grid.append(el("p", { class: "note" }, "Nothing fits these filters."));
  blocks.forEach((block) => observer.observe(block));
}

function fill(block) {
  if (block.firstChild) return;
  const start = Number(block.dataset.start);
  block.append(...found.slice(start, start + ROWS * columns).map((_, k) => card(start + k)));
}

function card(place) {
  const i = found[place];
  const metric = form.elements.metric.value;
  const [, prompt] = bench.prompts[bench.prompt[i]];
  const sign = { pass: "✓", fail: "✗", missing: "!", unscored: "?", "": "" };
  const scores = sides.map((side) => {
    const how = outcome(side, i);
    const of = sides.length > 2 ? `${side.letter} ` : "";
    return el("span", { class: `score ${how}`, title: side.name }, `${of}${sign[how]} ${show(value(side, metric, i))}`);
  });
  return el(
    "button",
    { type: "button", class: "card", "data-place": place, title: prompt, onclick: () => open(place) },
    el("span", { class: "pictures" }, ...sides.map((side) => thumbnail(side, i))),
    el("span", { class: "scores" }, ...scores),
    el("span", { class: "prompt" }, prompt),
  );
}

function thumbnail(side, i) {
  if (side.fault[i]) return el("span", { class: "missing" }, "missing");
  const small = side.size[i][0] <= 128 ? "crisp" : "";
  return el("img", { src: side.thumbnail[i], alt: "", loading: "lazy", decoding: "async", class: small });
}

function focusCard(place) {
  if (place < 0 || place >= found.length) return;
  const block = blocks[Math.floor(place / (ROWS * columns))];
  fill(block);
  block.querySelector(`[data-place="${place}"]`).focus();
}

function walkGrid(event) {
  const here = event.target.closest(".card");
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  if (!here || !step) return;
  event.preventDefault();
  focusCard(Number(here.dataset.place) + step);
}

// --- filters --------------------------------------------------------------------------------------

function options(name, pairs) {
  const select = form.elements[name];
  const before = select.value;
  select.replaceChildren(...pairs.map(([key, text]) => el("option", { value: key }, text)));
  if (pairs.some(([key]) => String(key) === before)) select.value = before;
  select.closest("label").hidden = pairs.length < 2;
}

function chooseBench() {
  bench = REPORT.benches[Number(form.elements.bench.value) || 0];
  const runs = bench.runs.map((side, k) => [k, `${side.letter} · ${side.name}`]);
  options("a", runs);
  options("b", [["", "nothing"], ...runs, ...(runs.length > 2 ? [["all", "all the others"]] : [])]);
  form.elements.a.value = "0";
  form.elements.b.value = runs.length > 1 ? "1" : "";
  form.elements.b.closest("label").hidden = runs.length < 2;
  const tags = [...new Set(bench.prompts.map(([, , tag]) => tag))];
  options("task", [["", "all"], ...(tags.length > 1 ? tags.map((tag) => [tag, words(tag)]) : [])]);
  options("metric", bench.metrics.map((metric) => [metric, metric]));
  form.elements.metric.closest("label").hidden = false;
  chooseSides();
  usual = filters();
  remember();
}

function chooseSides() {
  const { a, b } = form.elements;
  sideA = bench.runs[a.value];
  const others = b.value === "all" ? bench.runs.filter((_, k) => String(k) !== a.value)
    : b.value === "" || b.value === a.value ? [] : [bench.runs[b.value]];
  sides = [sideA, ...others];
  sideB = others.length === 1 ? others[0] : null;
  const name = (text) => (sideB ? text.replace(/\bA\b/, sideA.letter).replace(/\bB\b/, sideB.letter) : text);
  options("outcome", OUTCOMES[sideB ? "two" : "one"]
    .filter(([key]) => bench.passing || !["pass", "fail", "won", "lost"].includes(key))
    .map(([key, text]) => [key, name(text)]));
  const pair = sideB ? [["gain", name("most gained by B")], ["loss", name("most lost by B")]] : [];
  options("order", [["", "as in the benchmark"], ["high", "highest first"], ["low", "lowest first"], ...pair]);
  choose();
}

function changed(event) {
  const name = event.target.name;
  if (name === "bench") chooseBench();
  else if (name === "a" || name === "b") chooseSides();
  else choose();
}

// --- one image, opened ----------------------------------------------------------------------------

let opened = -1;
let boxesShown = true;

function open(place) {
  if (place < 0 || place >= found.length) return;
  opened = place;
  const i = found[place];
  viewer.replaceChildren(el("div", { class: "inner", tabindex: "-1" }, ...view(i)));
  viewer.classList.toggle("bare", !boxesShown);
  if (!viewer.open) viewer.showModal();
  viewer.firstChild.focus();
  viewer.scrollTop = 0;
  remember(`${bench.name}/${bench.key[i]}`);
}

function closed() {
  remember();
  focusCard(opened);
}

function view(i) {
  const [id, prompt, tag] = bench.prompts[bench.prompt[i]];
  const facts = { benchmark: bench.name, task: words(tag), prompt: id, image: bench.index[i], seed: bench.seed[i] };
  const button = (text, label, act, off) => el("button", { type: "button", "aria-label": label, disabled: off, onclick: act }, text);
  return [
    el("div", { class: "tools" },
      el("span", { class: "quiet" }, `${opened + 1} of ${found.length}`),
      button("←", "Previous image", () => open(opened - 1), opened === 0),
      button("→", "Next image", () => open(opened + 1), opened === found.length - 1),
      sides.some((side) => boxesOf(side, i).length) ? button("Boxes", "Show or hide boxes", toggleBoxes) : null,
      button("Close", "Close", () => viewer.close())),
    el("h3", { id: "prompt" }, prompt),
    el("dl", { class: "facts" }, ...Object.entries(facts).filter(([, fact]) => fact !== "")
      .map(([name, fact]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(fact))))),
    el("div", { class: sides.length > 1 ? "sides" : "alone" },
      ...sides.map((side) => picture(side, i)),
      el("div", { class: "details" }, scoreTable(sides, i),
        el("div", { class: sides.length > 1 ? "sides" : "" }, ...sides.map((side) => explanations(side, i))))),
  ];
}

function toggleBoxes() {
  boxesShown = !boxesShown;
  viewer.classList.toggle("bare", !boxesShown);
}

function picture(side, i) {
  const label = el("figcaption", {}, el("span", { class: `chip run-${side.letter}` }, side.letter), ` ${side.name}`);
  if (side.fault[i]) return el("figure", {}, el("p", { class: "missing" }, `missing: ${side.fault[i]}`), label);
  const [width, height] = side.size[i];
  const image = el("img", { src: side.file[i], alt: bench.prompts[bench.prompt[i]][1], class: width <= 128 ? "crisp" : "" });
  const frame = el("div", { class: "frame" }, image);
  frame.style.aspectRatio = `${width} / ${height}`;
  const boxes = boxesOf(side, i);
  if (boxes.length) frame.append(overlay(boxes, width, height));
  return el("figure", {}, frame, label);
}

// Every box that a reward found: GenEval's objects by class, OCR's lines.
function boxesOf(side, i) {
  const all = [];
  for (const details of Object.values(side.details)) {
    const evidence = (details[i] && details[i].evidence) || {};
    for (const [name, list] of Object.entries(evidence.boxes || {})) {
      for (const box of list) all.push({ name, text: `${name} ${box[4].toFixed(2)}`, box });
    }
    for (const line of evidence.lines || []) all.push({ name: "text", text: line.text, box: line.box });
  }
  return all;
}

function overlay(boxes, width, height) {
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "boxes" });
  const letter = Math.max(width, height) / (sides.length > 1 && innerWidth < 640 ? 14 : 26);
  const names = [...new Set(boxes.map((box) => box.name))];
  for (const { name, text, box: [left, top, right, bottom] } of boxes) {
    const group = svg("g", { class: `box-${names.indexOf(name) % 6}` });
    group.append(
      svg("rect", { x: left, y: top, width: right - left, height: bottom - top }),
      svg("text", { x: left + letter / 4, y: Math.max(top - letter / 3, letter), "font-size": letter }, text),
    );
    picture.append(group);
  }
  return picture;
}

function scoreTable(sides, i) {
  const head = sides.length > 1
    ? [el("tr", {}, el("td"), ...sides.map((side) => el("th", { class: "n" }, el("span", { class: `chip run-${side.letter}` }, side.letter))))]
    : [];
  const rows = bench.metrics.map((metric) => el("tr", { class: metric.includes(":") ? "part" : "" },
    el("th", { scope: "row" }, metric),
    ...sides.map((side) => el("td", { class: "n" }, show(value(side, metric, i))))));
  return el("table", { class: "scoretable" }, el("tbody", {}, ...head, ...rows));
}

function explanations(side, i) {
  const parts = [];
  for (const [reward, details] of Object.entries(side.details)) {
    if (details[i] && Object.keys(details[i]).length) parts.push(explanation(reward, details[i]));
  }
  return el("div", { class: "reasons" }, ...parts);
}

function explanation(reward, { reason, evidence = {} }) {
  const lines = [];
  const say = (name, text, kind = "p") => {
    if (text) lines.push(el("dt", {}, name), el("dd", {}, el(kind, {}, text)));
  };
  say("not scored", reason);
  say("why it fails", evidence.reason);
  if (evidence.strict_reason !== evidence.reason) say("why it fails, strictly", evidence.strict_reason);
  for (const [name, colors] of Object.entries(evidence.colors || {})) say(`colour of ${name}`, colors.join(", "));
  if ("target" in evidence) say("asked for", evidence.target);
  if ("read" in evidence) say("read", evidence.read || "nothing");
  say("reply", evidence.reply, "pre");
  const known = ["boxes", "colors", "reason", "strict_reason", "target", "read", "lines", "reply"];
  for (const [name, other] of Object.entries(evidence)) {
    if (!known.includes(name)) say(name, typeof other === "string" ? other : JSON.stringify(other));
  }
  return lines.length ? el("section", {}, el("h4", {}, reward), el("dl", {}, ...lines)) : "";
}

function keys(event) {
  const typing = event.target.matches("input, select, textarea");
  if (viewer.open) {
    if (event.key === "ArrowLeft") open(opened - 1);
    if (event.key === "ArrowRight") open(opened + 1);
    if (event.key === "b") toggleBoxes();
  } else if (event.key === "/" && !typing) {
    event.preventDefault();
    form.elements.text.focus();
  }
}

// --- the address: filters and the opened image, so that a link shows what its sender saw -----------

const FILTERS = ["a", "b", "task", "outcome", "metric", "order", "low", "high", "text"];
let usual = {};
let ready = false; // not before the page is as its address says

function filters() {
  return Object.fromEntries(FILTERS.map((name) => [name, form.elements[name].value]));
}

function remember(image = "") {
  if (!ready) return;
  const now = filters();
  const told = new URLSearchParams();
  if (bench !== REPORT.benches[0]) told.set("bench", bench.name);
  for (const name of FILTERS) if (now[name] !== usual[name]) told.set(name, now[name]);
  if (image) told.set("image", image);
  const hash = String(told);
  if (hash || location.hash.includes("=")) history.replaceState(null, "", hash ? `#${hash}` : "#gallery");
}

function follow() {
  const told = new URLSearchParams(location.hash.slice(1));
  const image = told.get("image");
  const name = told.get("bench") || (image && (REPORT.benches.find((one) => image.startsWith(`${one.name}/`)) || {}).name);
  const number = REPORT.benches.findIndex((one) => one.name === name);
  if (number > 0) { form.elements.bench.value = number; chooseBench(); }
  const named = FILTERS.filter((filter) => told.has(filter));
  for (const filter of named) {
    form.elements[filter].value = told.get(filter);
    if (form.elements[filter].selectedIndex === -1) form.elements[filter].value = usual[filter]; // no such choice here
    if (filter === "a" || filter === "b") chooseSides();
  }
  if (named.length) { choose(); document.getElementById("gallery").scrollIntoView(); }
  if (!image) return;
  const place = found.findIndex((i) => `${bench.name}/${bench.key[i]}` === image);
  if (place >= 0) { focusCard(place); open(place); }
}

function gallery() {
  form = document.getElementById("filters");
  grid = document.getElementById("grid");
  viewer = document.getElementById("viewer");
  observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) fill(target);
      else if (!target.contains(document.activeElement)) target.replaceChildren();
    }
  }, { rootMargin: "900px" });
  options("bench", REPORT.benches.map((one, k) => [k, one.name]));
  form.addEventListener("input", changed);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(chooseBench));
  grid.addEventListener("keydown", walkGrid);
  viewer.addEventListener("close", closed);
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  document.addEventListener("keydown", keys);
  let width = grid.clientWidth;
  new ResizeObserver(() => {
    if (grid.clientWidth !== width) { width = grid.clientWidth; layOut(); }
  }).observe(grid);
  chooseBench();
  follow();
  ready = true;
}
