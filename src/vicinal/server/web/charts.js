// Charts of the last minutes: lines with a scale, the time, and what each line was last.

import { h, s } from "./dom.js";

const WIDTH = 420, HEIGHT = 132, LEFT = 46, BOTTOM = 18, TOP = 8;

/** A chart. `series` are {label, kind, values}, values parallel to `times` (seconds), null for nothing; `show` writes a value. */
export function chart(title, times, series, show, { most } = {}) {
  const given = series.flatMap(({ values }) => values.filter((v) => v !== null && Number.isFinite(v)));
  const top = nice(Math.max(most ?? 0, ...given, 0));
  const first = times[0] ?? 0, last = Math.max(times.at(-1) ?? 1, first + 1);
  const x = (t) => LEFT + ((WIDTH - LEFT - 4) * (t - first)) / (last - first);
  const y = (v) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - v / top);
  const latest = series.map(({ values }) => values.findLast((v) => v !== null));
  const spoken = series.map(({ label }, i) => `${label || title} ${latest[i] === undefined ? "none yet" : show(latest[i])}`).join(", ");
  const lines = series.map(({ kind, values }) => {
    let path = "", open = false;
    values.forEach((value, i) => {
      if (value === null || !Number.isFinite(value)) { open = false; return; }
      path += `${open ? "L" : "M"}${x(times[i]).toFixed(1)} ${y(value).toFixed(1)}`;
      open = true;
    });
    return s("path", { d: path || "M0 0", class: `line ${kind}` });
  });
  const marks = [0, 0.5, 1].map((share) => [
    s("line", { x1: LEFT, x2: WIDTH, y1: y(share * top), y2: y(share * top), class: "grid" }),
    s("text", { x: LEFT - 6, y: y(share * top) + 4, class: "tick", "text-anchor": "end" }, show(share * top))]);
  const span = Math.round(last - first);
  return h("figure", { class: "card chart" },
    h("figcaption", {}, h("span", { class: "chart-title" }, title),
      h("span", { class: "chart-now" }, series.map(({ label, kind }, i) => h("span", { class: `key ${kind}` }, label ? `${label} ` : "", h("strong", {}, latest[i] === undefined ? "–" : show(latest[i])))))),
    s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}: ${spoken}` }, marks, lines,
      s("text", { x: LEFT, y: HEIGHT - 3, class: "tick" }, span > 90 ? `${Math.round(span / 60)} min ago` : `${span} s ago`), s("text", { x: WIDTH, y: HEIGHT - 3, class: "tick", "text-anchor": "end" }, "now")));
}

/** The next round number above. */
function nice(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((m) => m * power).find((m) => m >= value) ?? value;
}
