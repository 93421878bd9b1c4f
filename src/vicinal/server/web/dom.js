// Elements, icons, dialogs, notes and figures: what every view is made of.

import { Exact, format } from "./json.js";

const SVG = "http://www.w3.org/2000/svg";

const wanted = (children) => children.flat(3).filter((c) => c !== null && c !== undefined && c !== false && c !== "");

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...wanted(children));
  return element;
}

/** Show these, and nothing else, in an element. */
export const put = (element, ...children) => element.replaceChildren(...wanted(children));

/** An HTML element. */
export const h = (tag, properties, ...children) => fill(document.createElement(tag), properties, children);
/** An SVG element. */
export const s = (tag, properties, ...children) => fill(document.createElementNS(SVG, tag), properties, children);

const ICONS = {
  back: "M15 5l-7 7 7 7", next: "M9 5l7 7-7 7", close: "M6 6l12 12M18 6L6 18", plus: "M12 5v14M5 12h14",
  refresh: "M20 11a8 8 0 1 0-2.3 6.3M20 4v7h-7", trash: "M5 7h14M10 7V5h4v2M7 7l1 12h8l1-12M10 11v5M14 11v5",
  similar: "M12 12m-2.5 0a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0-5 0M5 5h.01M19 6h.01M6 19h.01M19 18h.01",
  copy: "M9 9h10v10H9zM5 15V5h10", sun: "M12 8a4 4 0 1 0 0 8a4 4 0 0 0 0-8M12 3v1M12 20v1M3 12h1M20 12h1M5.6 5.6l.7.7M17.7 17.7l.7.7M18.4 5.6l-.7.7M6.3 17.7l-.7.7",
  moon: "M20 14A8 8 0 0 1 10 4a8 8 0 1 0 10 10", auto: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  pause: "M9 6v12M15 6v12", play: "M8 5l11 7-11 7z", key: "M15 9m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0M12 12l-7 7M7 17l2 2",
};

/** A line icon, hidden from readers: the text beside it, or the button's label, speaks. */
export const icon = (name) => s("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" }, s("path", { d: ICONS[name] }));

/** A button. */
export function button(label, onclick, { kind = "", icon: name, ...rest } = {}) {
  return h("button", { type: "button", class: `button ${kind}`, onclick, ...rest }, name && icon(name), label);
}

/** A button that shows an icon only. */
export function iconButton(label, name, onclick, rest = {}) {
  return h("button", { type: "button", class: "button icon-only", "aria-label": label, title: label, onclick, ...rest }, icon(name));
}

let fieldNumber = 0;

/** A labelled control; `hint` stands below it. */
export function field(label, control, { hint, wide } = {}) {
  control.id ||= `field-${++fieldNumber}`;
  const note = hint && h("small", { class: "hint", id: `${control.id}-hint` }, hint);
  if (note) control.setAttribute("aria-describedby", note.id);
  return h("div", { class: `field ${wide ? "wide" : ""}` }, h("label", { for: control.id }, label), control, note);
}

/** A labelled check box. */
export function check(label, control) {
  return h("label", { class: "check" }, control, h("span", {}, label));
}

/** A <select> of [value, text] pairs. */
export function select(options, value, onchange) {
  const element = h("select", { onchange }, options.map(([v, t]) => h("option", { value: v }, t)));
  element.value = value;
  return element;
}

/** An error in words; `retry` offers to try again. */
export function errorBox(fault, retry) {
  const column = fault.details?.column;
  return h("div", { class: "error", role: "alert" },
    h("strong", {}, TITLES[fault.code] ?? "That did not work"), h("p", {}, fault.message),
    column !== undefined && column !== null && h("p", { class: "quiet" }, `The mistake is near column ${column}.`),
    retry && button("Try again", retry, { icon: "refresh" }));
}

const TITLES = {
  unauthenticated: "A key is needed", forbidden: "This key may not do that", not_found: "Not found",
  version_conflict: "Somebody changed it meanwhile", filter: "The filter has a mistake", dimension: "Wrong number of dimensions",
  unreachable: "No answer", overloaded: "Too much at once", deadline: "It took too long", read_only: "Read-only", limit: "Beyond a limit",
  unknown_field: "No such field", corruption: "Damaged files", storage: "The disk refuses",
};

/** What is shown where there is nothing. */
export const empty = (title, text, ...actions) =>
  h("div", { class: "empty" }, h("strong", {}, title), h("p", {}, text), h("div", { class: "row centre" }, actions));

/** A short note that goes by itself. */
export function toast(text, kind = "") {
  const note = h("div", { class: `toast ${kind}` }, text);
  document.getElementById("toasts").append(note);
  setTimeout(() => note.remove(), 6000);
}

/** A modal dialog; returns {dialog, close}. Escape and the backdrop close it. */
export function openDialog(title, content, { drawer, onclose } = {}) {
  const dialog = h("dialog", { class: drawer ? "drawer" : "modal", "aria-label": title });
  const close = () => dialog.close();
  dialog.append(
    h("div", { class: "dialog-head" }, h("h2", {}, title), iconButton("Close", "close", close)),
    h("div", { class: "dialog-body" }, content));
  dialog.addEventListener("close", () => { dialog.remove(); onclose?.(); });
  dialog.addEventListener("mousedown", (event) => { if (event.target === dialog) close(); });
  document.body.append(dialog);
  dialog.showModal();
  return { dialog, close };
}

/** Ask before something that cannot be undone; with `word`, it must be typed. Resolves to whether it is wanted. */
export function confirmDialog(title, text, action, word) {
  return new Promise((resolve) => {
    let wanted = false;
    const typed = word && h("input", { autocomplete: "off", spellcheck: "false", oninput: () => { go.disabled = typed.value !== word; } });
    const go = h("button", { type: "submit", class: "button danger", disabled: Boolean(word) }, action);
    const form = h("form", { class: "stack", onsubmit: (event) => { event.preventDefault(); wanted = true; close(); } },
      h("p", {}, text), word && field(`Type ${word} to confirm`, typed, { wide: true }),
      h("div", { class: "row end" }, button("Cancel", () => close()), go));
    const { close } = openDialog(title, form, { onclose: () => resolve(wanted) });
  });
}

/** The address of a view. */
export const address = (parts, query = {}) => {
  const given = Object.entries(query).filter(([, v]) => v !== "" && v !== undefined && v !== null && v !== false);
  const tail = new URLSearchParams(given).toString();
  return `#/${parts.map(encodeURIComponent).join("/")}${tail && `?${tail}`}`;
};

const COUNT = new Intl.NumberFormat("en");
/** 12,345 */
export const count = (n) => COUNT.format(Number(n));
/** 0.1235, 1.2e-7 */
export function figure(n) {
  n = Number(n);
  if (n !== 0 && Math.abs(n) < 1e-4) return n.toExponential(1);
  return n.toLocaleString("en", { maximumSignificantDigits: 4 });
}
/** 12 ms, 1.2 s */
export function millis(ms) {
  const [n, unit] = ms >= 1000 ? [ms / 1000, "s"] : [Number(ms), "ms"];
  return `${n.toLocaleString("en", n < 0.1 ? { maximumFractionDigits: 3 } : { maximumSignificantDigits: 3 })} ${unit}`;
}
/** 12.3 MB */
export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (n = Number(n); n >= 1000 && unit < units.length - 1; unit += 1) n /= 1000;
  return `${n.toLocaleString("en", { maximumFractionDigits: unit ? 1 : 0 })} ${units[unit]}`;
}
/** A time in the reader's zone. */
export const when = (text) => new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** An id as `readId` takes it: texts in quotes only where they look like something else. */
export function idText(id) {
  if (typeof id === "string") return /^-?\d+$|^".*"$|^\s|\s$|^$/s.test(id) || UUID.test(id) ? `"${id}"` : id;
  return id instanceof Exact || typeof id === "number" ? String(id) : id.uuid;
}
/** What kind of id it is. */
export const idKind = (id) => (typeof id === "string" ? "text" : id instanceof Exact || typeof id === "number" ? "int" : "uuid");

/** The id that somebody typed: 7 is an int, "7" and a1 are texts, a UUID is a UUID unless it is in quotes. */
export function readId(text) {
  text = text.trim();
  if (/^-?\d+$/.test(text)) return new Exact(String(BigInt(text)));
  if (/^"(.*)"$/s.test(text)) return text.slice(1, -1);
  if (UUID.test(text)) return { uuid: text };
  return text;
}

/** A word in a coloured pill. */
export const badge = (text, kind = "") => h("span", { class: `badge ${kind}` }, text);
export const healthBadge = (health) => badge(health.replace("_", "-"), { serving: "good", full: "warn", read_only: "warn" }[health] ?? "bad");

/** A share as a bar with its percentage. */
export function meter(share, label) {
  const bar = h("span", { class: "meter-fill" });
  bar.style.width = `${Math.round(100 * share)}%`;
  return h("span", { class: "meter-row" },
    h("span", { class: "meter", role: "img", "aria-label": `${label}: ${Math.round(100 * share)}%` }, bar),
    h("span", { class: "num" }, `${Math.round(100 * share)}%`));
}

/** A table: head of [text, class] or text, and rows of cells. */
export function table(caption, head, rows) {
  return h("div", { class: "table-box", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("caption", { class: "hidden" }, caption),
      h("thead", {}, h("tr", {}, head.map((c) => h("th", { scope: "col", class: Array.isArray(c) ? c[1] : "" }, Array.isArray(c) ? c[0] : c)))),
      h("tbody", {}, rows)));
}

/** A value of a payload in one line. */
export function brief(value, most = 60) {
  if (value === undefined) return "";
  const text = typeof value === "string" ? value : typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(6))) : format(value);
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

/** Put text where it can be pasted from; says what came of it. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    toast(`${what} copied`);
  } catch {
    toast("The browser does not let this page copy; select the text instead", "bad");
  }
}
