// The shell of every page: reads the payload, draws charts when they come into view, changes the theme.
"use strict";

const payload = JSON.parse(document.getElementById("payload").textContent);
const Page = {};

// What goes wrong is said on the page, where a reader sees it.
window.addEventListener("error", (event) => Page.trouble(event.message));
window.addEventListener("unhandledrejection", (event) => Page.trouble(String(event.reason)));
Page.trouble = (text) => {
  const notice = document.getElementById("trouble");
  notice.hidden = false;
  notice.textContent = `Something on this page does not work: ${text}`;
};

// An element with attributes and children; strings become text, never HTML.
Page.make = (tag, attributes, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
};

// Colours by name: a chart says "var(--c1)", the theme says what that is.
const resolved = (value, style) => {
  if (typeof value === "string") {
    const name = /^var\((--[a-z0-9-]+)\)$/.exec(value);
    return name ? style.getPropertyValue(name[1]).trim() : value;
  }
  if (Array.isArray(value)) return typeof value[0] === "number" && typeof value.at(-1) === "number" ? value.slice() : value.map((item) => resolved(item, style));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, resolved(item, style)]));
  }
  return value;
};

// plotly.js takes most of a page's start: it runs once what needs no chart has been painted. Its hash is in the page's policy.
const plotly = new Promise((resolve) => {
  const run = () => {
    document.head.append(Page.make("script", null, document.getElementById("plotly").textContent));
    resolve();
  };
  window.addEventListener("load", () => requestAnimationFrame(() => setTimeout(run)));
});

const touch = window.matchMedia("(pointer: coarse)").matches;
const drawn = new Map(); // element -> spec of what is drawn in it

Page.draw = (element, spec) => {
  const { data, layout } = resolved(spec, getComputedStyle(document.documentElement));
  layout.dragmode = touch ? false : "zoom";
  if (touch) for (const axis of ["xaxis", "yaxis"]) (layout[axis] ||= {}).fixedrange = true; // a finger scrolls the page
  const known = drawn.has(element);
  drawn.set(element, spec);
  return plotly.then(() => {
    if (drawn.get(element) !== spec) return undefined; // forgotten, or something newer is drawn
    return Plotly.react(element, data, layout, { displayModeBar: false, responsive: true });
  }).then(() => {
    if (!known && Page.onDrawn) Page.onDrawn(element);
  });
};

Page.forget = (element) => {
  waiting.delete(element);
  if (drawn.delete(element)) plotly.then(() => Plotly.purge(element));
};

// A chart is drawn when it comes near the screen: a page of thirty opens as fast as one of three.
const waiting = new Map(); // element -> spec of what is not drawn yet
const watcher = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting || !waiting.has(target)) continue;
      watcher.unobserve(target);
      Page.draw(target, waiting.get(target));
      waiting.delete(target);
    }
  },
  { rootMargin: "300px" },
);
Page.place = (element, spec) => {
  waiting.set(element, spec);
  watcher.observe(element);
};
for (const [name, spec] of Object.entries(payload.charts)) Page.place(document.getElementById(`chart-${name}`), spec);

const redraw = () => drawn.forEach((spec, element) => Page.draw(element, spec));
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

const THEMES = ["auto", "light", "dark"];
const themeButton = document.getElementById("theme");
const setTheme = (theme) => {
  document.documentElement.dataset.theme = theme;
  themeButton.textContent = `theme: ${theme}`;
  try { localStorage.setItem("espl-theme", theme); } catch { /* a page from a file may have no storage */ }
};
themeButton.addEventListener("click", () => {
  setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]);
  redraw();
});
try {
  const kept = localStorage.getItem("espl-theme");
  if (THEMES.includes(kept)) setTheme(kept);
} catch { /* as above */ }
