"use strict";

// Data files call REPORT.add; the page is built when all of them have run.
const REPORT = { benches: [], add(bench) { this.benches.push(bench); } };

// --- theme: the system's unless the reader has chosen ---------------------------------------------

const page = document.documentElement;
const memory = {
  get() { try { return localStorage.getItem("nftbench-theme"); } catch { return null; } },
  set(value) { try { localStorage.setItem("nftbench-theme", value); } catch { /* not kept, then */ } },
};
if (memory.get()) page.dataset.theme = memory.get();

function isDark() {
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  return (page.dataset.theme || system) === "dark";
}

function themeButton() {
  const button = document.getElementById("theme");
  const show = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => {
    page.dataset.theme = isDark() ? "light" : "dark";
    memory.set(page.dataset.theme);
    show();
  });
  show();
}

// --- small helpers --------------------------------------------------------------------------------

// Text only ever becomes text: children that are strings are text nodes.
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

function svg(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

const show = (value) => (value === null || value === undefined ? "–" : value.toFixed(3));
const words = (text) => text.replaceAll("_", " ");

const brief = (number) => String(Number(number.toPrecision(4)));
const interval = ([, y, low, high]) => (low === undefined || low === null ? brief(y) : `${brief(y)} (${brief(low)} to ${brief(high)})`);

// --- charts: the nearest value under the pointer --------------------------------------------------

function readout(figure) {
  const [low, high] = JSON.parse(figure.dataset.box);
  const canvas = figure.querySelector(".canvas");
  const cursor = figure.querySelector(".cursor");
  const unit = figure.querySelector(".at");
  const name = unit.textContent;
  const lines = [...figure.querySelectorAll("[data-points]")].map((node) => ({
    output: node.querySelector("output"),
    last: node.querySelector("output").textContent,
    points: JSON.parse(node.dataset.points),
  }));
  const shown = lines.filter((line) => line.points.length);
  if (!shown.length) return;
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const x = low + ((event.clientX - box.left) / box.width) * (high - low);
    const distance = (point) => Math.abs(point[0] - x);
    const near = (points) => points.reduce((a, b) => (distance(b) < distance(a) ? b : a));
    const all = shown.map((line) => near(line.points));
    const at = near(all)[0];
    cursor.hidden = false;
    cursor.style.left = `${(100 * (at - low)) / (high - low)}%`;
    unit.textContent = `${name} ${Number(at.toPrecision(3))}`;
    shown.forEach((line, i) => { line.output.textContent = interval(all[i]); });
  });
  canvas.addEventListener("pointerleave", () => {
    cursor.hidden = true;
    unit.textContent = name;
    for (const line of lines) line.output.textContent = line.last;
  });
}

function gridSlider(figure) {
  const images = [...figure.querySelectorAll("img")];
  figure.querySelector("input").addEventListener("input", (event) => {
    images.forEach((image, i) => { image.hidden = i !== Number(event.target.value); });
    figure.querySelector("output").textContent = images[event.target.value].dataset.iteration;
  });
}

document.addEventListener("DOMContentLoaded", () => {
  themeButton();
  document.querySelectorAll(".plot").forEach(readout);
  document.querySelectorAll(".grids").forEach(gridSlider);
  downloads();
  scrollHints();
  if (REPORT.benches.length) gallery();
});

// --- a served page looks for a newer one; where the reader is stays ---

addEventListener("DOMContentLoaded", () => {
  const live = document.getElementById("live");
  if (live) followLive(live);
});

function followLive(live) {
  let version = null;

  async function lookForNewer() {
    let state;
    try {
      state = await (await fetch("state.json", { cache: "no-store" })).json();
    } catch {
      live.hidden = false;
      live.textContent = "The server has stopped: this page stays as it is.";
      return;
    }
    const words = [...state.under_way, state.problem].filter(Boolean);
    live.hidden = !words.length;
    live.textContent = words.join(" \u00b7 ");
    if (version !== null && state.version !== version) {
      sessionStorage.setItem("scroll", String(scrollY));
      location.reload();
    }
    version = state.version;
  }

  addEventListener("load", () => {
    const place = sessionStorage.getItem("scroll");
    sessionStorage.removeItem("scroll");
    if (place) scrollTo(0, Number(place));
  });
  lookForNewer();
  setInterval(lookForNewer, 2000);
}
