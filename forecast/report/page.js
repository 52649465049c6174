// Light and dark, and the drawing of the figures.
// It stands before everything else, so that a page that is kept dark never shows itself in light,
// and after a line with DARK, the colours of style.py.
(() => {
  "use strict";

  const THEME = "forecast-report-theme";
  const PAPER = 680; // pixels that fit on A4 and on letter between the margins of page.html
  const CONFIG = {
    responsive: true,
    displaylogo: false,
    plotlyServerURL: "", // plotly.js would offer to send a figure to its makers' cloud
    showSendToCloud: false,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  };

  // Light and dark. Paper is always light.
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null; // by the reader: "light", "dark", or null for what the system prefers
  let printing = false;
  try {
    chosen = localStorage.getItem(THEME);
  } catch {
    // Where pages may keep nothing, the system's preference stands at every opening.
  }
  if (chosen) document.documentElement.dataset.theme = chosen;

  const isDark = () => !printing && (chosen ?? (system.matches ? "dark" : "light")) === "dark";

  function theme() {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", id: "theme", textContent: "Dark" });
    const tell = () => button.setAttribute("aria-pressed", String(isDark()));
    button.addEventListener("click", () => {
      chosen = isDark() ? "light" : "dark";
      document.documentElement.dataset.theme = chosen;
      try {
        localStorage.setItem(THEME, chosen);
      } catch {
        // It holds until the page is closed.
      }
      tell();
      renew();
    });
    system.addEventListener("change", () => {
      tell();
      if (!chosen) renew();
    });
    tell();
    document.querySelector("header").prepend(button);
  }

  // The dark version of a figure, as `dark` in style.py makes it, by the same table.
  function recoloured(value, key) {
    if (typeof value === "string") return /color(scale)?$/.test(key) ? darkened(value) : value;
    if (Array.isArray(value)) return value.map((item) => recoloured(item, key));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(
      Object.entries(value).map(([name, item]) => [name, recoloured(item, name)]),
    );
  }

  function darkened(colour) {
    const known = { white: "#ffffff", black: "#000000" };
    let name = known[colour.toLowerCase()] ?? colour.toLowerCase();
    const rgb = /^rgba?\((\d+), *(\d+), *(\d+)(?:, *([\d.]+))?\)$/.exec(name);
    if (rgb) name = hexadecimal(rgb.slice(1, 4));
    else if (!/^#[0-9a-f]{6}$/.test(name)) return colour;
    const parts = (hex) => [1, 3, 5].map((place) => parseInt(hex.slice(place, place + 2), 16));
    const { table, raised } = DARK;
    const found = table[name]
      ?? hexadecimal(parts(name).map((part) => Math.trunc((1 - raised) * part + raised * 255)));
    return rgb?.[4] ? `rgba(${parts(found).join(",")},${rgb[4]})` : found;
  }

  const hexadecimal = (parts) =>
    "#" + parts.map((part) => Number(part).toString(16).padStart(2, "0")).join("");

  // Figures are drawn one by one, the one nearest to the window first, so that the page can be
  // read and scrolled from the start. plotly.js lies in the page packed, and is unpacked after it
  // is shown; the content security policy knows its hash.
  let scripts = [];
  let pending = new Set();
  let plotly; // a promise

  const bytesOf = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

  async function unpack() {
    const packed = document.getElementById("plotly").textContent;
    const stream = new Blob([bytesOf(packed)]).stream();
    const script = document.createElement("script");
    script.textContent = await new Response(
      stream.pipeThrough(new DecompressionStream("gzip"))).text();
    document.head.append(script);
  }

  function draw(script) {
    pending.delete(script);
    const figure = JSON.parse(script.textContent);
    const { data, layout } = isDark() ? recoloured(figure, "") : figure;
    if (printing) layout.width = PAPER;
    layout.uirevision = "kept"; // what a reader chose and where they zoomed outlives a redrawing
    Plotly.react(script.previousElementSibling, data, layout, CONFIG);
  }

  function distance(script) {
    const { top, bottom } = script.previousElementSibling.getBoundingClientRect();
    return Math.max(0, top - innerHeight, -bottom);
  }

  async function renew() {
    const own = (pending = new Set(scripts));
    await plotly;
    while (pending === own && own.size) {
      draw([...own].reduce((near, other) => (distance(other) < distance(near) ? other : near)));
      await new Promise((resolve) => setTimeout(resolve));
    }
  }

  function paper(begins) {
    printing = begins;
    for (const script of window.Plotly ? scripts : []) {
      draw(script);
      if (!begins) Plotly.Plots.resize(script.previousElementSibling); // as wide as before
    }
  }

  addEventListener("DOMContentLoaded", () => {
    theme();
    scripts = [...document.querySelectorAll("script[data-figure]")];
    const loaded = new Promise((resolve) => addEventListener("load", resolve));
    if (scripts.length) plotly = loaded.then(unpack);
    renew();
    addEventListener("beforeprint", () => paper(true));
    addEventListener("afterprint", () => paper(false));
  });
})();
