"use strict";

// --- files: every table as CSV, every chart as CSV and SVG ----------------------------------------

// A cell that a spreadsheet would take for a formula gets an apostrophe; a number does not.
function csvCell(value) {
  let text = String(value).trim().replace(/\s+/g, " ");
  if (/^[=+@\t\r-]/.test(text) && Number.isNaN(Number(text))) text = `'${text}`;
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const csv = (rows) => rows.map((row) => `${row.map(csvCell).join(",")}\r\n`).join("");

function save(name, kind, text) {
  const link = el("a", { href: URL.createObjectURL(new Blob([text], { type: kind })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const fileName = (text) => text.trim().replace(/[^\p{L}\p{N}._-]+/gu, "-").slice(0, 80) || "chart";

function saver(format, label, make) {
  return el("button", { type: "button", class: "save", "aria-label": `${format} of ${label}`, onclick: make }, format);
}

// Cells over several columns are followed by empty ones, so that columns stay columns.
function tableRows(table) {
  return [...table.rows].map((row) => [...row.cells].flatMap((cell) => [cell.textContent, ...Array(cell.colSpan - 1).fill("")]));
}

function plotRows(figure) {
  const unit = figure.querySelector(".at").textContent;
  const rows = [["run", unit, figure.dataset.title, "low", "high"]];
  for (const line of figure.querySelectorAll("[data-points]")) {
    for (const [x, y, low, high] of JSON.parse(line.dataset.points)) rows.push([line.title, x, y, low ?? "", high ?? ""]);
  }
  return rows;
}

function barRows(figure) {
  const rows = [[figure.dataset.title, "run", "value", "low", "high", "images"]];
  for (const group of figure.querySelectorAll(".group:not(.scale)")) {
    const label = group.querySelector(".label").textContent;
    for (const bar of group.querySelectorAll(".bar")) rows.push([label, ...JSON.parse(bar.dataset.bar)]);
  }
  return rows;
}

// --- charts as SVG files: the page's shapes and colours, written out --------------------------------

function drawing(width, height) {
  const paper = getComputedStyle(page).getPropertyValue("--paper");
  const root = svg("svg", { xmlns: "http://www.w3.org/2000/svg", width, height, viewBox: `0 0 ${width} ${height}`, "font-family": "sans-serif", "font-size": 11 });
  root.append(svg("rect", { width, height, fill: paper }));
  return root;
}

const ink = (name) => getComputedStyle(page).getPropertyValue(`--${name}`).trim();

function plotSvg(figure) {
  const [width, height, left, top] = [460, 270, 60, 30];
  const [inner, tall] = [width - left - 20, height - top - 60];
  const root = drawing(width, height);
  root.append(svg("text", { x: left, y: 18, "font-weight": 600, "font-size": 13, fill: ink("ink") }, figure.dataset.title));
  const shapes = svg("g", { transform: `translate(${left} ${top}) scale(${inner / 100} ${tall / 100})`, fill: "none" });
  for (const path of figure.querySelectorAll("svg path")) {
    const style = getComputedStyle(path);
    shapes.append(svg("path", {
      d: path.getAttribute("d"), fill: style.fill, stroke: style.stroke, "stroke-width": style.strokeWidth,
      opacity: style.opacity, "stroke-linecap": style.strokeLinecap, "vector-effect": "non-scaling-stroke",
    }));
  }
  root.append(shapes);
  const place = (node, side) => Number.parseFloat(node.style[side]) / 100;
  for (const tick of figure.querySelectorAll(".axes > .y")) {
    root.append(svg("text", { x: left - 6, y: top + tall * (1 - place(tick, "bottom")) + 4, "text-anchor": "end", fill: ink("quiet") }, tick.textContent));
  }
  for (const tick of figure.querySelectorAll(".axes > .x")) {
    root.append(svg("text", { x: left + inner * place(tick, "left"), y: top + tall + 16, "text-anchor": "middle", fill: ink("quiet") }, tick.textContent));
  }
  root.append(svg("text", { x: left + inner, y: top + tall + 30, "text-anchor": "end", fill: ink("quiet") }, figure.querySelector(".at").textContent));
  let x = left;
  for (const line of figure.querySelectorAll("[data-points]")) {
    const text = `${line.querySelector("b").textContent} ${line.title}`;
    root.append(svg("text", { x, y: height - 12, fill: getComputedStyle(line.querySelector("b")).color, "font-weight": 600 }, text));
    x += 7 * text.length + 14;
  }
  return root;
}

function barsSvg(figure) {
  const bars = [...figure.querySelectorAll(".group:not(.scale) .bar")];
  const [width, left, row] = [620, 160, 18];
  const inner = width - left - 70;
  const root = drawing(width, 40 + row * bars.length);
  root.append(svg("text", { x: 10, y: 18, "font-weight": 600, "font-size": 13, fill: ink("ink") }, figure.dataset.title));
  bars.forEach((bar, i) => {
    const y = 32 + row * i;
    const share = (node, side) => (inner * Number.parseFloat(node.style[side])) / 100;
    const [fill, range] = [bar.querySelector("i"), bar.querySelector("u")];
    const label = bar.closest(".group").querySelector(".label").textContent;
    if (!i || bars[i - 1].closest(".group") !== bar.closest(".group")) {
      root.append(svg("text", { x: left - 8, y: y + 11, "text-anchor": "end", fill: ink("quiet") }, label));
    }
    root.append(svg("rect", { x: left, y, width: share(fill, "width"), height: 13, fill: getComputedStyle(fill).backgroundColor }));
    if (range) {
      const [low, high] = [left + share(range, "left"), left + share(range, "left") + share(range, "width")];
      root.append(svg("path", { d: `M${low} ${y + 6.5}H${high}M${low} ${y + 3}v7M${high} ${y + 3}v7`, stroke: ink("ink"), fill: "none" }));
    }
    root.append(svg("text", { x: width - 60, y: y + 11, fill: ink("ink") }, `${JSON.parse(bar.dataset.bar)[0]} ${bar.querySelector(":scope > span").textContent}`));
  });
  return root;
}

function downloads() {
  for (const table of document.querySelectorAll(".scroll table")) {
    const name = table.caption.textContent.trim().replace(/\s+/g, " ");
    table.closest(".scroll").before(el("p", { class: "files" }, saver("CSV", name, () => save(`${fileName(name)}.csv`, "text/csv", csv(tableRows(table))))));
  }
  const charts = [...document.querySelectorAll(".plot, .bars")];
  for (const figure of charts) {
    const name = figure.dataset.title;
    const plot = figure.classList.contains("plot");
    const drawn = () => new XMLSerializer().serializeToString(plot ? plotSvg(figure) : barsSvg(figure));
    figure.querySelector("figcaption").append(el("span", { class: "files" },
      saver("CSV", name, () => save(`${fileName(name)}.csv`, "text/csv", csv(plot ? plotRows(figure) : barRows(figure)))),
      saver("SVG", name, () => save(`${fileName(name)}.svg`, "image/svg+xml", drawn()))));
  }
}

// --- wide tables: say that there is more to the right ----------------------------------------------

function scrollHints() {
  for (const box of document.querySelectorAll(".scroll")) {
    const hint = el("p", { class: "note hint", hidden: true }, "Scroll sideways for more columns \u2192");
    box.before(hint);
    const look = () => { hint.hidden = box.scrollWidth <= box.clientWidth + 1; };
    new ResizeObserver(look).observe(box);
    look();
  }
}

// --- paper: everything is opened before it is printed ----------------------------------------------

addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});
