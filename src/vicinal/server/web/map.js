// The vectors on a plane: a sample by its two principal components, coloured by a payload field.

import { at, call } from "./api.js";
import { brief, button, check, count, empty, errorBox, field, figure, h, iconButton, idText, put, select, table } from "./dom.js";
import { FILTER_EXAMPLE } from "./points.js";
import { openPoint } from "./point.js";

const COLOURS = ["#4c6ef5", "#e8590c", "#2b9e5e", "#ae3ec9", "#0c8599", "#e0368c", "#b58900", "#8b5a3c", "#5c7cfa"];
const OTHER = "#8a919e";
const SCALE = [[68, 60, 150], [49, 108, 160], [31, 150, 139], [90, 195, 100], [235, 205, 50]];
const NEAR = 12;

/** The view of #/collections/NAME/map. */
export async function map({ root, name, query, signal, keep, may, go }) {
  const where = h("input", { type: "text", class: "mono", spellcheck: "false", autocomplete: "off", placeholder: FILTER_EXAMPLE, value: query.get("where") ?? "" });
  const sample = select([["500", "500"], ["2000", "2,000"], ["5000", "5,000"], ["10000", "10,000"]], query.get("sample") ?? "2000", () => load());
  const colour = select([["", "nothing"]], "", () => load());
  const labelled = h("input", { type: "checkbox", onchange: () => draw() });
  let seed = Number(query.get("seed") ?? 0), wanted = query.get("colour"), asked = 0;
  const canvas = h("canvas", { class: "map", tabindex: "0", role: "img" });
  const tip = h("div", { class: "tip", hidden: true });
  const legend = h("div", { class: "legend" });
  const note = h("p", { class: "quiet", role: "status" });
  const list = h("details", {}, h("summary", {}, "The same as a table"));
  const box = h("div", { class: "map-box" }, canvas, tip,
    h("div", { class: "map-buttons" }, iconButton("Zoom in", "plus", () => zoom(1.5)), h("button", { type: "button", class: "button icon-only", "aria-label": "Zoom out", title: "Zoom out", onclick: () => zoom(1 / 1.5) }, "−"), button("All", () => fit(), { kind: "small" })));
  const area = h("div", {});
  const form = h("form", { class: "row bar", onsubmit: (event) => { event.preventDefault(); load(); } },
    h("div", { class: "grow wide-input" }, field("Filter", where)), field("Colour by", colour), field("Sample", sample),
    h("button", { type: "submit", class: "button primary" }, "Draw"), button("Another sample", () => { seed += 1; load(); }), check("ids", labelled));
  put(root, form, area);
  let found = null, paint = () => OTHER, view = { x: 0, y: 0, scale: 1 }, places = [], nearest = -1;

  async function load() {
    const mine = ++asked;
    const by = found === null ? wanted ?? "" : colour.value;
    keep({ where: where.value.trim(), colour: by, sample: sample.value === "2000" ? "" : sample.value, seed: seed || "" });
    if (found === null) put(area, h("p", { class: "quiet" }, "Drawing a sample …"));
    try {
      const answer = await call("POST", at(name, "project"), { sample: Number(sample.value), color_by: by || undefined, where: where.value.trim() || undefined, seed }, signal);
      if (mine !== asked) return;
      const first = found === null;
      found = answer;
      if (first && by === "" && wanted === null && (wanted = guess(answer.fields))) { offer(wanted); load(); return; }
      offer(by);
      show();
    } catch (fault) {
      if (!signal.aborted && mine === asked) put(area, errorBox(fault));
    }
  }

  function offer(value) {
    const names = found.fields.map((f) => f.name);
    const path = (text) => (/^[A-Za-z_]\w*$/.test(text) ? text : `"${text.replaceAll('"', '""')}"`);
    const options = [["", "nothing"], ...names.map((text) => [path(text), brief(text, 40)])];
    if (value && !options.some(([v]) => v === value)) options.push([value, value]);
    put(colour, ...options.map(([v, t]) => h("option", { value: v }, t)));
    colour.value = value;
  }

  function show() {
    if (!found.ids.length) {
      put(area, empty("Nothing to draw", where.value.trim() ? "No point passes the filter." : "The collection has no points yet."));
      return;
    }
    const [a, b] = found.explained.map((share) => `${Math.round(100 * Number(share))}%`);
    note.textContent = `${count(found.ids.length)} of ${count(found.matches)} points, drawn at random. Across: ${a} of the variance, up: ${b}.`;
    canvas.setAttribute("aria-label", `Map of ${note.textContent} Arrow keys move it, plus and minus zoom.`);
    ({ paint } = colours(found.values, legend, colour.value));
    const rows = found.ids.slice(0, 100).map((id, i) => h("tr", {}, h("td", {}, h("button", { type: "button", class: "link mono", onclick: () => open(i) }, brief(idText(id), 40))),
      h("td", { class: "num" }, figure(found.x[i])), h("td", { class: "num" }, figure(found.y[i])), h("td", {}, brief(found.values[i] ?? ""))));
    put(list, list.firstChild, table("Points of the map", ["Id", ["Across", "num"], ["Up", "num"], colour.value || "Value"], rows), found.ids.length > 100 ? h("p", { class: "quiet" }, "The first 100.") : "");
    put(area, note, h("div", { class: "map-and-legend" }, box, legend), list);
    fit();
  }

  const open = (i) => openPoint(name, found.ids[i], { may, go, changed: () => load() });

  function fit() {
    const xs = found.x.map(Number), ys = found.y.map(Number);
    const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const { clientWidth: width, clientHeight: height } = canvas;
    const scale = Math.min((width - 48) / Math.max(right - left, 1e-12), (height - 48) / Math.max(high - low, 1e-12));
    view = { scale, x: width / 2 - (scale * (left + right)) / 2, y: height / 2 + (scale * (low + high)) / 2 };
    draw();
  }
  function zoom(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
    view = { scale: view.scale * factor, x: x - (x - view.x) * factor, y: y - (y - view.y) * factor };
    draw();
  }
  function draw() {
    if (!found || !canvas.isConnected) return;
    const ratio = devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    places = found.ids.map((_, i) => [view.x + view.scale * Number(found.x[i]), view.y - view.scale * Number(found.y[i])]);
    pen.globalAlpha = found.ids.length > 3000 ? 0.6 : 0.78;
    const radius = found.ids.length > 3000 ? 2.4 : 3.4;
    places.forEach(([x, y], i) => {
      pen.fillStyle = paint(found.values[i]);
      pen.beginPath();
      pen.arc(x, y, i === nearest ? 7 : radius, 0, 7);
      pen.fill();
    });
    pen.globalAlpha = 1;
    if (labelled.checked) {
      pen.fillStyle = style.getPropertyValue("--text");
      pen.font = "11px ui-monospace, monospace";
      const taken = [];
      places.forEach(([x, y], i) => { // as many as do not cover each other
        if (x < 0 || y < 0 || x > canvas.clientWidth || y > canvas.clientHeight || taken.some(([a, b]) => Math.abs(a - x) < 90 && Math.abs(b - y) < 13)) return;
        taken.push([x, y]);
        pen.fillText(brief(idText(found.ids[i]), 14), x + 6, y + 4);
      });
    }
  }
  function point(event) {
    const edge = canvas.getBoundingClientRect();
    return [event.clientX - edge.left, event.clientY - edge.top];
  }
  function closest(x, y) {
    let best = -1, gap = NEAR * NEAR;
    places.forEach(([a, b], i) => { const g = (a - x) ** 2 + (b - y) ** 2; if (g < gap) { gap = g; best = i; } });
    return best;
  }
  let held = null;
  canvas.addEventListener("pointerdown", (event) => { held = { at: point(event), from: { ...view }, moved: false }; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = point(event);
    if (held) {
      const [dx, dy] = [x - held.at[0], y - held.at[1]];
      held.moved ||= Math.abs(dx) + Math.abs(dy) > 4;
      if (held.moved) { view = { ...view, x: held.from.x + dx, y: held.from.y + dy }; tip.hidden = true; draw(); }
      return;
    }
    const i = closest(x, y);
    if (i !== nearest) { nearest = i; draw(); }
    tip.hidden = i < 0;
    canvas.classList.toggle("over", i >= 0);
    if (i < 0) return;
    put(tip, h("strong", { class: "mono" }, brief(idText(found.ids[i]), 40)), colour.value ? h("div", {}, `${colour.value}: ${brief(found.values[i] ?? "none", 80)}`) : "");
    tip.style.left = `${Math.min(x + 14, canvas.clientWidth - 180)}px`;
    tip.style.top = `${y + 14}px`;
  });
  canvas.addEventListener("pointerup", (event) => {
    const moved = held?.moved;
    held = null;
    const i = closest(...point(event));
    if (!moved && i >= 0) open(i);
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; if (nearest >= 0) { nearest = -1; draw(); } });
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(-event.deltaY / 400), ...point(event)); }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[event.key];
    if (step) { view = { ...view, x: view.x + step[0], y: view.y + step[1] }; draw(); }
    else if (event.key === "+" || event.key === "=") zoom(1.3);
    else if (event.key === "-") zoom(1 / 1.3);
    else if (event.key === "0") fit();
    else return;
    event.preventDefault();
  });
  const watch = new ResizeObserver(() => draw());
  watch.observe(canvas);
  signal.addEventListener("abort", () => watch.disconnect());
  addEventListener("vicinal-theme", () => draw(), { signal });
  await load();
}

/** A field that makes a readable picture: few different values, or else a number. */
function guess(fields) {
  const plain = fields.filter((f) => /^[A-Za-z_]\w*$/.test(f.name));
  return (plain.find((f) => !f.numeric && f.distinct > 1 && f.distinct <= 12) ?? plain.find((f) => f.distinct > 1 && f.distinct <= 12)
    ?? plain.find((f) => f.numeric && f.distinct > 1))?.name ?? "";
}

/** The colour of each value, and the legend that explains it. */
function colours(values, legend, title) {
  const given = values.filter((value) => value !== null);
  const numbers = given.filter((value) => typeof value !== "string" && typeof value !== "boolean").map(Number);
  const counts = new Map();
  for (const value of given) counts.set(String(value), (counts.get(String(value)) ?? 0) + 1);
  put(legend);
  if (!title) return { paint: () => COLOURS[0] };
  legend.append(h("h3", {}, title));
  if (numbers.length === given.length && counts.size > COLOURS.length) {
    const low = Math.min(...numbers), high = Math.max(...numbers);
    legend.append(h("div", { class: "gradient", role: "img", "aria-label": `Colours from ${brief(low)} to ${brief(high)}` }), h("div", { class: "row" }, h("span", {}, brief(low)), h("div", { class: "grow" }), h("span", {}, brief(high))));
    return { paint: (value) => (value === null ? OTHER : between((Number(value) - low) / (high - low || 1))) };
  }
  const ranked = [...counts].sort((a, b) => b[1] - a[1]);
  const chosen = new Map(ranked.slice(0, COLOURS.length).map(([text], i) => [text, COLOURS[i]]));
  const rest = ranked.slice(COLOURS.length).reduce((sum, [, n]) => sum + n, 0);
  const missing = values.length - given.length;
  const entry = (shade, text, n) => {
    const dot = h("span", { class: "dot" });
    dot.style.background = shade;
    return h("li", {}, dot, h("span", { class: "grow" }, brief(text, 28)), h("span", { class: "num quiet" }, count(n)));
  };
  legend.append(h("ul", {}, [...chosen].map(([text, shade]) => entry(shade, text, counts.get(text))), rest > 0 && entry(OTHER, `${ranked.length - COLOURS.length} others`, rest), missing > 0 && entry(OTHER, "none", missing)));
  return { paint: (value) => (value === null ? OTHER : chosen.get(String(value)) ?? OTHER) };
}

function between(share) {
  const place = Math.max(0, Math.min(1, share)) * (SCALE.length - 1);
  const i = Math.min(SCALE.length - 2, Math.floor(place));
  return `rgb(${SCALE[i].map((from, c) => Math.round(from + (SCALE[i + 1][c] - from) * (place - i))).join()})`;
}
