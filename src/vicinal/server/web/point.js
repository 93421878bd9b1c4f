// One point in a drawer: its payload as text that can be edited, its vector, and what is done with it.

import { at, call } from "./api.js";
import { address, brief, button, confirmDialog, copy, empty, errorBox, figure, h, idKind, idText, openDialog, put, toast, when } from "./dom.js";
import { format, parse, same } from "./json.js";

const NUMBERS_SHOWN = 64;

/** Open a point; `changed` is called after it was saved or deleted. */
export function openPoint(name, id, { may, go, changed }) {
  const body = h("div", { class: "stack" }, h("p", { class: "quiet" }, "Loading …"));
  let dirty = () => false;
  const { dialog, close } = openDialog(`Point ${brief(idText(id), 40)}`, body, { drawer: true });
  dialog.addEventListener("cancel", async (event) => {
    if (!dirty()) return;
    event.preventDefault();
    if (await confirmDialog("Leave without saving?", "The payload was changed here and not saved.", "Leave")) close();
  });

  async function load(note) {
    try {
      const { points: [point] } = await call("POST", at(name, "points/get"), { ids: [id], with_vectors: true });
      if (point === null) {
        put(body, empty("No such point", `${name} has no point with the ${idKind(id)} id ${idText(id)}.`));
        return;
      }
      draw(point, note);
    } catch (fault) {
      put(body, errorBox(fault, () => load(note)));
    }
  }

  function draw(point, note) {
    const before = format(point.payload, "  ");
    const editor = h("textarea", { class: "mono editor", spellcheck: "false", rows: "14", "aria-label": "Payload, as JSON", readonly: !may("write"), oninput: check });
    editor.value = before;
    const problem = h("div", { role: "status" }, note ?? "");
    const save = button("Save", () => store(), { kind: "primary", disabled: true });
    const undo = button("Undo", () => { editor.value = before; check(); }, { disabled: true });
    dirty = () => editor.isConnected && editor.value !== before;

    function check() {
      save.disabled = undo.disabled = editor.value === before;
      put(problem);
      try {
        payload();
      } catch (fault) {
        save.disabled = true;
        put(problem, h("p", { class: "field-error" }, fault.message));
      }
    }
    function payload() {
      const value = parse(editor.value);
      if (value === null || typeof value !== "object" || Array.isArray(value)) throw new SyntaxError("a payload is an object: { … }");
      return value;
    }
    async function store() {
      const next = payload();
      // Only what was changed is sent, so that what JSON cannot show of the rest stays as it is.
      const set = Object.fromEntries(Object.entries(next).filter(([field, value]) => !(field in point.payload) || !same(value, point.payload[field])));
      const gone = Object.keys(point.payload).filter((field) => !(field in next));
      if (!Object.keys(set).length && !gone.length) { load(h("p", { class: "quiet" }, "Nothing was changed.")); return; }
      save.disabled = true;
      try {
        const change = { ids: [id], payload: set, delete_keys: gone.length ? gone : undefined, if_version: point.version };
        const { count } = await call("PATCH", at(name, "points"), change);
        toast(count ? "Saved" : "The point was deleted meanwhile", count ? "" : "bad");
        changed();
        load();
      } catch (fault) {
        save.disabled = false;
        put(problem, errorBox(fault), fault.code === "version_conflict"
          ? button("Show what it is now", () => load(h("p", { class: "quiet" }, "This is the payload as it is now; your text was dropped.")), { icon: "refresh" }) : "");
      }
    }
    async function remove() {
      if (!await confirmDialog("Delete this point?", `Point ${idText(id)} of ${name}, with its vector and payload. This cannot be undone.`, "Delete the point")) return;
      try {
        await call("POST", at(name, "points/delete"), { ids: [id], if_version: point.version });
        toast("Deleted");
        dirty = () => false;
        close();
        changed();
      } catch (fault) {
        put(problem, errorBox(fault));
      }
    }
    const vector = point.vector.map(Number);
    put(body, 
      h("dl", { class: "pairs" }, h("dt", {}, "Id"), h("dd", { class: "mono" }, idText(id), " ", h("span", { class: "kind" }, idKind(id))),
        h("dt", {}, "Version"), h("dd", {}, String(point.version)), h("dt", {}, "Expires"), h("dd", {}, point.expires_at ? when(point.expires_at) : "never")),
      h("div", { class: "row" },
        h("a", { class: "button", href: address(["collections", name, "search"], { like: idText(id) }), onclick: () => { dirty = () => false; close(); } }, "Find similar points"),
        h("div", { class: "grow" }), may("write") && button("Delete", remove, { kind: "danger-quiet", icon: "trash" })),
      h("h3", {}, "Payload"), editor, problem,
      may("write") ? h("div", { class: "row end" }, undo, save) : h("p", { class: "quiet" }, "This key reads only."),
      h("div", { class: "row" }, h("h3", {}, `Vector, ${vector.length} numbers`), h("div", { class: "grow" }),
        button("Copy", () => copy(format(point.vector), "The vector"), { icon: "copy", kind: "small" })),
      bars(vector),
      h("p", { class: "mono quiet vector" }, vector.slice(0, NUMBERS_SHOWN).map(figure).join("  "), vector.length > NUMBERS_SHOWN ? `  … ${vector.length - NUMBERS_SHOWN} more` : ""));
  }
  load();
  return go;
}

/** The numbers of a vector as a strip of bars around zero. */
function bars(vector) {
  const canvas = h("canvas", { class: "bars", role: "img", "aria-label": `The ${vector.length} numbers of the vector as bars`, width: "800", height: "80" });
  const draw = () => {
    const pen = canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const most = Math.max(...vector.map(Math.abs), 1e-30);
    const width = canvas.width / vector.length;
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.fillStyle = style.getPropertyValue("--accent");
    vector.forEach((value, i) => {
      const height = (Math.abs(value) / most) * 38;
      pen.fillRect(i * width, value >= 0 ? 40 - height : 40, Math.max(width - (width > 3 ? 1 : 0), 0.5), Math.max(height, 0.5));
    });
  };
  requestAnimationFrame(draw);
  return canvas;
}
