// One collection: its figures, segments and payload indexes, and what an admin does to it as a whole.

import { at, call } from "./api.js";
import { disk, memory } from "./collections.js";
import { badge, button, bytes, confirmDialog, count, empty, errorBox, h, healthBadge, meter, put, table, toast } from "./dom.js";

/** The view of #/collections/NAME. */
export async function overview({ root, name, signal, refresh, may, go }) {
  const [{ stats }, { config }] = await Promise.all([
    call("GET", at(name, "stats"), undefined, signal), call("GET", at(name), undefined, signal)]);
  const problem = h("div", {});

  async function act(control, work, done) {
    control.disabled = true;
    try {
      await work();
      toast(done);
      refresh();
    } catch (fault) {
      put(problem, errorBox(fault));
    } finally {
      control.disabled = false;
    }
  }
  const optimize = button("Optimize", () => act(optimize, () => call("POST", at(name, "optimize"), { wait: false }),
    "Everything is being brought into one graph, in the background"), { title: "Bring everything into one graph, in the background" });
  const drop = button("Drop", async () => {
    const text = `Collection ${name} and its ${count(stats.points)} points will be gone. This cannot be undone.`;
    if (!await confirmDialog(`Drop ${name}?`, text, "Drop the collection", name)) return;
    act(drop, () => call("DELETE", at(name)), `${name} is dropped`).then(() => go(["collections"]));
  }, { kind: "danger-quiet", icon: "trash" });

  const fields = Object.entries(config).filter(([, value]) => value !== null);
  const indexed = new Map();
  for (const segment of stats.segments) {
    for (const [path, [distinct, rows, , , , held]] of Object.entries(segment.payload_index)) {
      const sum = indexed.get(path) ?? { kinds: new Set(), rows: 0, bytes: 0 };
      Object.keys(distinct).forEach((kind) => sum.kinds.add(kind));
      indexed.set(path, { kinds: sum.kinds, rows: sum.rows + Number(rows), bytes: sum.bytes + Number(held) });
    }
  }
  put(root, 
    h("div", { class: "row bar" }, healthBadge(stats.status), stats.reason && h("span", { class: "quiet" }, stats.reason), h("div", { class: "grow" }),
      button("Refresh", refresh, { icon: "refresh" }), may("admin") && optimize, may("admin") && drop),
    problem,
    h("dl", { class: "tiles" }, [
      ["Points", count(stats.points)], ["Dimensions", count(stats.dim)], ["Metric", stats.metric], ["Type", stats.dtype],
      ["Memory of indexes", bytes(memory(stats))], ["On disk", bytes(disk(stats))],
    ].map(([term, value]) => h("div", { class: "tile" }, h("dt", {}, term), h("dd", {}, value)))),
    stats.points === 0 && empty("No points yet", "Write some with docs.upsert(…), POST …/points, or vicinal import."),
    h("section", { class: "card" }, h("h2", {}, "Segments"),
      h("p", { class: "quiet" }, `${count(stats.tail_points)} points in the tail, ${count(stats.dead_rows)} rows to be purged. Points that the graph does not hold yet are compared one by one, so that every search sees them.`),
      stats.segments.length ? table("Segments", ["Segment", ["Rows", "num"], ["Dead", "num"], "In the graph", ["Index", "num"], "Notes"],
        stats.segments.map((segment) => h("tr", {}, h("td", {}, segment.number === null ? "tail (in memory)" : `no. ${segment.number}`),
          h("td", { class: "num" }, count(segment.rows)), h("td", { class: "num" }, count(segment.dead)),
          h("td", {}, meter(segment.rows ? segment.linked / segment.rows : 1, "In the graph")), h("td", { class: "num" }, bytes(segment.index_bytes)),
          h("td", {}, segment.rebuilt.length ? badge(`made anew: ${segment.rebuilt.join(", ")}`, "warn") : "")))) : h("p", {}, "None yet.")),
    h("section", { class: "card" }, h("h2", {}, "Payload indexes"),
      h("p", { class: "quiet" }, "Made when a filter or an order first needs them."),
      indexed.size ? table("Payload indexes", ["Field", "Values", ["Rows", "num"], ["Memory", "num"]],
        [...indexed].map(([path, sum]) => h("tr", {}, h("td", {}, h("code", {}, path)), h("td", {}, [...sum.kinds].join(", ")),
          h("td", { class: "num" }, count(sum.rows)), h("td", { class: "num" }, bytes(sum.bytes))))) : h("p", {}, "None yet.")),
    h("div", { class: "columns" },
      h("section", { class: "card" }, h("h2", {}, "Configuration"),
        h("dl", { class: "pairs" }, fields.map(([term, value]) => [h("dt", {}, term), h("dd", {}, String(value))]))),
      h("section", { class: "card" }, h("h2", {}, "Memory and disk"),
        h("dl", { class: "pairs" }, ...Object.entries(stats.memory_bytes).map(([k, v]) => [h("dt", {}, `memory: ${k.replaceAll("_", " ")}`), h("dd", {}, bytes(v))]),
          ...Object.entries(stats.disk_bytes).map(([k, v]) => [h("dt", {}, `disk: ${k.replaceAll("_", " ")}`), h("dd", {}, bytes(v))])))));
}
