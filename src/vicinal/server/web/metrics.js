// What the server does right now, from /metrics, every two seconds while the page is looked at.

import { key, text } from "./api.js";
import { address, button, bytes, count, errorBox, figure, h, meter, millis, put, table } from "./dom.js";
import { chart } from "./charts.js";
import { quantile, read, total } from "./prometheus.js";

const EVERY_MS = 2000, KEPT = 150;
const UNHURRIED = new Set(["optimize", "snapshot"]);

/** The view of #/metrics. */
export async function metrics({ root, signal }) {
  const charts = h("div", { class: "charts" });
  const tables = h("div", {});
  const problem = h("div", {});
  const history = [];
  let before = null, paused = false;
  const pause = button("Pause", () => {
    paused = !paused;
    pause.lastChild.textContent = paused ? "Go on" : "Pause";
    state.textContent = paused ? "Paused." : LIVE;
  });
  const LIVE = "Every two seconds, while this page is in front.";
  const state = h("p", { class: "quiet", role: "status" }, LIVE);
  put(root, h("div", { class: "head row" }, h("h1", {}, "Metrics"), h("div", { class: "grow" }), !key.get() && h("a", { class: "button", href: "../metrics", target: "_blank", rel: "noopener" }, "As text"), pause),
    state, problem, charts, tables);

  async function tick() {
    if (paused || document.hidden) return;
    let samples;
    try {
      samples = read(await text("metrics", signal));
      put(problem);
    } catch (fault) {
      if (!signal.aborted) put(problem, errorBox(fault));
      return;
    }
    const now = performance.now() / 1000;
    if (before) {
      const seconds = now - before.now;
      const rate = (name, fits) => Math.max(0, total(samples, name, fits) - total(before.samples, name, fits)) / seconds;
      const late = (share) => quantile(before.samples, samples, "vicinal_request_seconds", share, (l) => !UNHURRIED.has(l.operation));
      const hits = rate("vicinal_result_cache_total", (l) => l.outcome === "hit"), looks = rate("vicinal_result_cache_total");
      const calls = rate("vicinal_search_batch_count");
      history.push({
        now, ok: rate("vicinal_requests_total", (l) => l.code === "ok"), failed: rate("vicinal_requests_total", (l) => l.code !== "ok"),
        p50: late(0.5), p95: late(0.95), p99: late(0.99), cache: looks ? hits / looks : null,
        batch: calls ? rate("vicinal_search_batch_sum") / calls : null, waiting: total(samples, "vicinal_searches_waiting"),
        memory: total(samples, "vicinal_memory_bytes"),
      });
      if (history.length > KEPT) history.shift();
    }
    before = { now, samples };
    draw(samples);
  }

  function draw(samples) {
    const times = history.map((h_) => h_.now);
    const values = (name, scale = 1) => history.map((h_) => (h_[name] === null ? null : h_[name] * scale));
    put(charts, 
      chart("Requests a second", times, [{ label: "answered", kind: "one", values: values("ok") }, { label: "failed", kind: "bad", values: values("failed") }], figure),
      chart("Time of a request", times, [{ label: "p50", kind: "one", values: values("p50", 1000) }, { label: "p95", kind: "two", values: values("p95", 1000) }, { label: "p99", kind: "bad", values: values("p99", 1000) }], millis),
      chart("Searches answered from the cache", times, [{ label: "", kind: "one", values: values("cache") }], (v) => `${Math.round(100 * v)}%`, { most: 1 }),
      chart("Searches in one native call", times, [{ label: "", kind: "one", values: values("batch") }], figure),
      chart("Searches waiting", times, [{ label: "", kind: "one", values: values("waiting") }], figure),
      chart("Memory of indexes", times, [{ label: "", kind: "one", values: values("memory") }], bytes));
    const names = samples.filter((p) => p.name === "vicinal_points").map((p) => p.labels.collection);
    const of = (metric, name) => total(samples, metric, (l) => l.collection === name);
    const operations = new Map();
    for (const { name, labels, value } of samples) {
      if (name !== "vicinal_requests_total") continue;
      const sum = operations.get(labels.operation) ?? { ok: 0, failed: 0 };
      sum[labels.code === "ok" ? "ok" : "failed"] += value;
      operations.set(labels.operation, sum);
    }
    const mean = (name) => {
      const n = total(samples, "vicinal_request_seconds_count", (l) => l.operation === name);
      return n ? millis((1000 * total(samples, "vicinal_request_seconds_sum", (l) => l.operation === name)) / n) : "";
    };
    put(tables, h("div", { class: "columns" },
      h("section", { class: "card" }, h("h2", {}, "Collections in use"), names.length ? table("Collections in use", ["Name", ["Points", "num"], "In the graph", ["Memory", "num"]],
        names.map((name) => h("tr", {}, h("td", {}, h("a", { href: address(["collections", name]) }, name)), h("td", { class: "num" }, count(of("vicinal_points", name))),
          h("td", {}, meter(of("vicinal_indexed_ratio", name), "In the graph")), h("td", { class: "num" }, bytes(of("vicinal_memory_bytes", name)))))) : h("p", { class: "quiet" }, "None is open.")),
      h("section", { class: "card" }, h("h2", {}, "Operations since the start"), operations.size ? table("Operations", ["Operation", ["Answered", "num"], ["Failed", "num"], ["Mean", "num"]],
        [...operations].sort((a, b) => b[1].ok + b[1].failed - a[1].ok - a[1].failed).map(([name, sum]) => h("tr", {}, h("td", {}, name), h("td", { class: "num" }, count(sum.ok)),
          h("td", { class: "num" }, count(sum.failed)), h("td", { class: "num" }, mean(name))))) : h("p", { class: "quiet" }, "None yet."))));
  }
  const timer = setInterval(tick, EVERY_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
  await tick();
}
