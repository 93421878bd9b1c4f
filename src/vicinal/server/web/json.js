// JSON without loss: a number that JavaScript would change (a large int, 1.0, 1e-05) stays the text that it was.

/** A number as it was written; counts as its nearest JavaScript number in arithmetic. */
export class Exact {
  constructor(text) { this.text = text; }
  valueOf() { return Number(this.text); }
  toString() { return this.text; }
}

const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const SPACE = /[ \t\n\r]*/y;
const TEXT = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const WORDS = [["true", true], ["false", false], ["null", null]];
const DEPTH_MAX = 400;

/** The value of a JSON text. Throws SyntaxError naming line and column. */
export function parse(text) {
  let at = 0;

  function fail(what) {
    const before = text.slice(0, at).split("\n");
    throw new SyntaxError(`line ${before.length}, column ${before.at(-1).length + 1}: ${what}`);
  }
  function space() { SPACE.lastIndex = at; SPACE.exec(text); at = SPACE.lastIndex; }
  function token(pattern) {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (found) at = pattern.lastIndex;
    return found && found[0];
  }
  function string() {
    const raw = token(TEXT);
    if (raw === null) fail("a text in double quotes belongs here");
    return raw.includes("\\") ? JSON.parse(raw) : raw.slice(1, -1);
  }
  function items(end, depth, read) {
    at += 1;
    space();
    if (text[at] === end) { at += 1; return; }
    for (;;) {
      read(depth + 1);
      space();
      if (text[at] === end) { at += 1; return; }
      if (text[at] !== ",") fail(`"," or "${end}" belongs here`);
      at += 1;
    }
  }
  function value(depth) {
    if (depth > DEPTH_MAX) fail("nested too deep");
    space();
    const first = text[at];
    if (first === "{") {
      const object = Object.create(null);
      items("}", depth, (deeper) => {
        space();
        const name = string();
        space();
        if (text[at] !== ":") fail('":" belongs here');
        at += 1;
        object[name] = value(deeper);
      });
      return object;
    }
    if (first === "[") {
      const list = [];
      items("]", depth, (deeper) => list.push(value(deeper)));
      return list;
    }
    if (first === '"') return string();
    for (const [word, meaning] of WORDS) {
      if (text.startsWith(word, at)) { at += word.length; return meaning; }
    }
    const raw = token(NUMBER);
    if (raw === null) fail(at >= text.length ? "the text ends too early" : "this is no JSON value");
    const number = Number(raw);
    return String(number) === raw ? number : new Exact(raw);
  }

  const result = value(0);
  space();
  if (at < text.length) fail("there is more after the end");
  return result;
}

/** The JSON text of a value; with `indent`, for people: short lists stay on one line. */
export function format(value, indent = "", inner = "") {
  if (value instanceof Exact) return value.text;
  if (value === null || typeof value !== "object") return JSON.stringify(value) ?? "null";
  const deeper = inner + indent;
  const list = Array.isArray(value);
  const parts = list
    ? value.map((item) => format(item, indent, deeper))
    : Object.keys(value).filter((name) => value[name] !== undefined)
      .map((name) => `${JSON.stringify(name)}:${indent ? " " : ""}${format(value[name], indent, deeper)}`);
  const [open, close] = list ? "[]" : "{}";
  if (!parts.length) return open + close;
  if (!indent) return open + parts.join(",") + close;
  const line = parts.join(", ");
  if (list && line.length < 90 && !line.includes("\n")) return open + line + close;
  return `${open}\n${deeper}${parts.join(`,\n${deeper}`)}\n${inner}${close}`;
}

/** Whether two values have the same JSON text. */
export function same(a, b) { return format(a) === format(b); }
