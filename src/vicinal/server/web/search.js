// The search console: a vector, or a point to be like; what is found, and how it was found.

import { ApiError, at, call, fields } from "./api.js";
import { badge, brief, button, check, count, empty, errorBox, field, figure, h, idKind, idText, millis, put, readId } from "./dom.js";
import { format, parse } from "./json.js";
import { FILTER_EXAMPLE } from "./points.js";
import { openPoint } from "./point.js";

/** The view of #/collections/NAME/search. */
export async function search({ root, name, query, signal, keep, may, go }) {
  const [{ config }, known] = await Promise.all([call("GET", at(name), undefined, signal), fields("Search")]);
  const like = h("input", { type: "text", class: "mono", spellcheck: "false", autocomplete: "off", placeholder: "id of a point", value: query.get("like") ?? "" });
  const vector = h("textarea", { class: "mono", rows: "3", spellcheck: "false", placeholder: `${config.dim} numbers: [0.1, -0.2, …]` });
  const where = h("input", { type: "text", class: "mono", spellcheck: "false", autocomplete: "off", placeholder: FILTER_EXAMPLE, value: query.get("where") ?? "" });
  const k = h("input", { type: "number", min: "1", max: "10000", value: query.get("k") ?? "10", class: "short" });
  const ef = h("input", { type: "number", min: "1", max: "100000", placeholder: "by itself", class: "short", value: query.get("ef") ?? "" });
  const recall = h("input", { type: "number", min: "0.5", max: "1", step: "0.001", placeholder: "by itself", class: "short", value: query.get("recall") ?? "" });
  const exact = h("input", { type: "checkbox" });
  exact.checked = query.has("exact");
  const results = h("div", { "aria-live": "polite" });
  const go_ = h("button", { type: "submit", class: "button primary" }, "Search");
  const panes = { like: field("Like the point", like, { wide: true, hint: 'An id as the page shows it: a1, 7, "7" for a text, or a UUID.' }), vector: field("Vector", vector, { wide: true }) };
  let mode = query.has("like") || !query.has("vector") ? "like" : "vector";
  const choice = h("div", { class: "choice", role: "radiogroup", "aria-label": "What to search for" }, [["like", "Like a point"], ["vector", "Paste a vector"]].map(([id, title]) =>
    h("label", {}, h("input", { type: "radio", name: "mode", value: id, checked: id === mode, onchange: () => { mode = id; turn(); } }), h("span", {}, title))));
  const random = button("Any point", async () => {
    try {
      const { ids } = await call("POST", at(name, "project"), { sample: 1, seed: Math.floor(Math.random() * 1e9) }, signal);
      if (!ids.length) throw new ApiError("The collection has no points yet.", 404, "not_found");
      like.value = idText(ids[0]);
      run();
    } catch (fault) {
      if (!signal.aborted) put(results, errorBox(fault));
    }
  });
  function turn() {
    panes.like.hidden = mode !== "like";
    panes.vector.hidden = mode !== "vector";
    random.hidden = mode !== "like";
  }
  const form = h("form", { class: "card stack", onsubmit: (event) => { event.preventDefault(); run(); } },
    choice, panes.like, panes.vector,
    h("div", { class: "row bar" }, h("div", { class: "grow wide-input" }, field("Filter", where)), field("k", k),
      known.has("recall") && field("Recall", recall), field("ef", ef), check("exact", exact)),
    h("div", { class: "row" }, go_, random));
  put(root, form, results);
  turn();
  let asked = 0;

  async function target() {
    if (mode === "vector") {
      const text = vector.value.trim();
      if (!text) throw new ApiError("Paste a vector first.", 400, "invalid_argument");
      try {
        return { query: parse(text.startsWith("[") ? text : `[${text.split(/[\s,;]+/).filter(Boolean).join(",")}]`) };
      } catch (fault) {
        throw new ApiError(`The vector is no list of numbers: ${fault.message}`, 400, "invalid_argument");
      }
    }
    if (!like.value.trim()) throw new ApiError("Name a point first, or paste a vector.", 400, "invalid_argument");
    const id = readId(like.value);
    const { points: [point] } = await call("POST", at(name, "points/get"), { ids: [id], with_vectors: true }, signal);
    if (!point) throw new ApiError(`${name} has no point with the ${idKind(id)} id ${idText(id)}.`, 404, "not_found");
    return { query: point.vector, id };
  }

  async function run() {
    const mine = ++asked;
    keep({ like: mode === "like" ? like.value.trim() : "", vector: mode === "vector" && "1", where: where.value.trim(), k: k.value === "10" ? "" : k.value, ef: ef.value, recall: recall.value, exact: exact.checked && "1" });
    go_.disabled = true;
    try {
      const { query: wanted, id } = await target();
      const request = { vector: wanted, k: Number(k.value), where: where.value.trim() || undefined, exact: exact.checked || undefined,
        ef_search: ef.value ? Number(ef.value) : undefined, recall: recall.value ? Number(recall.value) : undefined };
      const began = performance.now();
      const found = await call("POST", at(name, "search"), request, signal);
      const took = performance.now() - began;
      const explained = await call("POST", at(name, "explain"), request, signal);
      if (mine === asked) draw(found.hits, explained, took, id);
    } catch (fault) {
      if (!signal.aborted && mine === asked) put(results, errorBox(fault));
    } finally {
      go_.disabled = false;
    }
  }

  function draw(hits, explained, took, self) {
    const far = Math.max(...hits.map((hit) => Math.abs(Number(hit.distance))), 1e-30);
    put(results, h("div", { class: "results" },
      h("section", { class: "card" }, h("h2", {}, `${count(hits.length)} nearest`),
        hits.length ? h("ol", { class: "hits" }, hits.map((hit) => {
          const bar = h("span", { class: "meter-fill" });
          bar.style.width = `${(100 * Math.abs(Number(hit.distance))) / far}%`;
          return h("li", {}, h("div", { class: "row" },
            h("button", { type: "button", class: "link mono", onclick: () => openPoint(name, hit.id, { may, go, changed: run }) }, brief(idText(hit.id), 50)),
            self !== undefined && format(self) === format(hit.id) && badge("the point itself"), h("div", { class: "grow" }),
            h("span", { class: "meter thin", "aria-hidden": "true" }, bar), h("span", { class: "num", title: "distance" }, figure(hit.distance)),
            button("Similar", () => { mode = "like"; form.querySelector("input[value=like]").checked = true; turn(); like.value = idText(hit.id); run(); }, { kind: "small" })),
          summary(hit.payload));
        })) : empty("Nothing found", "No point passes the filter, or the collection is empty.")),
      plan(explained, took)));
  }
  if (query.get("like")) await run();
}

function summary(payload) {
  const entries = Object.entries(payload).slice(0, 8);
  if (!entries.length) return h("p", { class: "quiet" }, "no payload");
  return h("dl", { class: "facts" }, entries.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, brief(value, 160)))));
}

const WAYS = { scan: "compare every match", filter: "walk the graph among the matches", gate: "walk the graph, keep the matches" };

function plan(explained, took) {
  const extra = Object.entries(explained).filter(([name, value]) => !["collection", "points", "k", "ef_search", "where", "matches", "total_ms", "segments"].includes(name) && value !== null && typeof value !== "object");
  return h("section", { class: "card explain" }, h("h2", {}, "How it was done"),
    h("dl", { class: "pairs" },
      h("dt", {}, "In the engine"), h("dd", {}, millis(explained.total_ms)), h("dt", {}, "With the network"), h("dd", {}, millis(took)),
      h("dt", {}, "Filter"), h("dd", { class: "mono" }, explained.where ?? "none"), h("dt", {}, "Matches"), h("dd", {}, `${count(explained.matches)} of ${count(explained.points)}`),
      h("dt", {}, "ef"), h("dd", {}, count(explained.ef_search)), extra.map(([term, value]) => [h("dt", {}, term.replaceAll("_", " ")), h("dd", {}, String(value))])),
    explained.segments.length ? h("ol", { class: "hits", "aria-label": "Segments searched" }, explained.segments.map((part) => h("li", {},
      h("div", { class: "row" }, badge(part.strategy, "accent"), h("span", {}, WAYS[part.strategy] ?? ""), h("div", { class: "grow" }), h("span", { class: "num" }, millis(part.actual_ms))),
      h("p", { class: "quiet small-text" }, part.reason),
      h("dl", { class: "facts" }, [["rows", part.rows], ["matches", part.matches], ["distances, estimated", part.estimated_distances]].map(([term, value]) =>
        h("div", {}, h("dt", {}, term), h("dd", {}, count(value)))))))) : h("p", { class: "quiet" }, "No segment had a match."));
}
