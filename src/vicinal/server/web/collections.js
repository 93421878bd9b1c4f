// All collections: how each one is, and making one.

import { at, call } from "./api.js";
import { address, button, bytes, count, empty, errorBox, field, h, healthBadge, meter, openDialog, put, select, table, toast } from "./dom.js";

const SHOWN_MAX = 50;

/** The view of #/collections. */
export async function collections({ root, signal, refresh, may, go }) {
  const { collections: found } = await call("GET", "v1/status", undefined, signal);
  const names = Object.keys(found);
  const make = may("admin") && button("New collection", () => newCollection(go), { kind: "primary", icon: "plus" });
  const head = h("div", { class: "head row" }, h("h1", {}, "Collections"), h("div", { class: "grow" }), button("Refresh", refresh, { icon: "refresh" }), make);
  if (!names.length) {
    put(root, head, empty("No collections yet", "A collection holds points: an id, a vector and any payload. Make one here, or import a file with: vicinal import",
      may("admin") && button("New collection", () => newCollection(go), { kind: "primary", icon: "plus" })));
    return;
  }
  const body = h("div", {});
  const totals = h("dl", { class: "tiles" });
  const wanted = h("input", { type: "search", placeholder: "Part of a name", oninput: () => draw() });
  put(root, head, totals, names.length > 8 ? h("div", { class: "row bar" }, field("Find a collection", wanted)) : "", body);
  const known = new Map();
  let drawn = 0;

  async function draw() {
    const mine = ++drawn;
    const chosen = names.filter((name) => name.toLowerCase().includes(wanted.value.toLowerCase()));
    const rows = chosen.slice(0, SHOWN_MAX);
    const cells = new Map(rows.map((name) => [name, h("tr", {}, h("td", {}, link(name)), h("td", {}, healthBadge(found[name].health)),
      h("td", { colspan: "6", class: "quiet" }, found[name].reason ?? "…"))]));
    put(body, 
      rows.length ? table("Collections", ["Name", "Status", ["Points", "num"], ["Dim", "num"], "Metric", "Type", "In the graph", ["On disk", "num"]], [...cells.values()])
        : empty("Nothing by that name", "No collection has this in its name."),
      chosen.length > SHOWN_MAX ? h("p", { class: "quiet" }, `${count(chosen.length - SHOWN_MAX)} more; type a part of the name.`) : "");
    for (const name of rows) {
      if (found[name].health === "quarantined") continue;
      try {
        if (!known.has(name)) known.set(name, (await call("GET", at(name, "stats"), undefined, signal)).stats);
      } catch (fault) {
        if (signal.aborted) return;
        put(cells.get(name), h("td", {}, link(name)), h("td", { colspan: "7" }, errorBox(fault)));
        continue;
      }
      if (mine !== drawn) return;
      const stats = known.get(name);
      put(cells.get(name), h("td", {}, link(name)), h("td", {}, healthBadge(found[name].health)), h("td", { class: "num" }, count(stats.points)),
        h("td", { class: "num" }, count(stats.dim)), h("td", {}, stats.metric), h("td", {}, stats.dtype),
        h("td", {}, meter(Number(stats.indexed_ratio), "In the graph")), h("td", { class: "num" }, bytes(disk(stats))));
    }
    summarise();
  }

  function summarise() {
    const all = [...known.values()];
    const sum = (value) => all.reduce((total, stats) => total + Number(value(stats)), 0);
    const partial = known.size < names.length ? "+" : "";
    put(totals, ...[
      ["Collections", count(names.length)], ["Points", count(sum((s) => s.points)) + partial],
      ["Memory of indexes", bytes(sum(memory)) + partial], ["On disk", bytes(sum(disk)) + partial],
    ].map(([term, value]) => h("div", { class: "tile" }, h("dt", {}, term), h("dd", {}, value))));
  }
  await draw();
}

const link = (name) => h("a", { class: "strong", href: address(["collections", name]) }, name);
/** Bytes on disk of a collection's stats. */
export const disk = (stats) => Object.values(stats.disk_bytes).reduce((a, b) => a + Number(b), 0);
/** Bytes in memory of a collection's stats. */
export const memory = (stats) => Object.values(stats.memory_bytes).reduce((a, b) => a + Number(b), 0);

function newCollection(go) {
  const name = h("input", { required: true, autocomplete: "off", spellcheck: "false" });
  const dim = h("input", { type: "number", min: "1", max: "65536", required: true });
  const metric = select([["cosine", "cosine: the angle"], ["l2", "l2: the distance"], ["ip", "ip: the inner product"], ["manhattan", "manhattan: the sum of differences"], ["hamming", "hamming: differing bits"]], "cosine");
  const dtype = select([["f32", "f32: exact"], ["f16", "f16: half the memory"], ["i8", "i8: a quarter"], ["bit", "bit: packed, hamming only"]], "f32");
  const problem = h("div", {});
  const form = h("form", {
    class: "stack",
    onsubmit: async (event) => {
      event.preventDefault();
      try {
        await call("PUT", at(name.value), { dim: Number(dim.value), metric: metric.value, dtype: dtype.value });
        close();
        toast(`Collection ${name.value} is there`);
        go(["collections", name.value]);
      } catch (fault) {
        put(problem, errorBox(fault));
      }
    },
  },
  field("Name", name, { wide: true }), field("Dimensions", dim, { wide: true, hint: "The length of every vector, such as 384. It cannot be changed later." }),
  field("Metric", metric, { wide: true }), field("Type of the numbers", dtype, { wide: true }), problem,
  h("div", { class: "row end" }, button("Cancel", () => close()), h("button", { type: "submit", class: "button primary" }, "Create")));
  const { close } = openDialog("New collection", form);
}
