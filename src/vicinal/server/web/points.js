// The points of a collection, page by page, with a filter and an order.

import { at, call } from "./api.js";
import { badge, brief, button, count, empty, errorBox, field, h, idKind, idText, put, readId, select, table, when } from "./dom.js";
import { openPoint } from "./point.js";

const COLUMNS_MAX = 6;
export const FILTER_EXAMPLE = "year >= 2020 and lang in ('en', 'de')";

/** The view of #/collections/NAME/points. */
export async function points({ root, name, query, signal, keep, may, go }) {
  const where = h("input", { type: "text", class: "mono", spellcheck: "false", autocomplete: "off", placeholder: FILTER_EXAMPLE, value: query.get("where") ?? "" });
  const order = h("input", { type: "text", class: "mono", spellcheck: "false", autocomplete: "off", placeholder: "order of writing", list: "known-fields", value: query.get("order") ?? "" });
  const turned = h("input", { type: "checkbox" });
  turned.checked = query.has("down");
  const size = select([["25", "25 a page"], ["50", "50 a page"], ["100", "100 a page"]], query.get("size") ?? "25", () => load(true));
  const known = h("datalist", { id: "known-fields" });
  const one = h("input", { type: "text", class: "mono", spellcheck: "false", autocomplete: "off", placeholder: "id", "aria-label": "Open a point by id" });
  const list = h("div", {});
  const total = h("p", { class: "quiet", role: "status" });
  const problem = h("div", {});
  let trail = [null];
  let asked = 0;

  const form = h("form", { class: "row bar", onsubmit: (event) => { event.preventDefault(); load(true); } },
    h("div", { class: "grow wide-input" }, field("Filter", where)), field("Order by", order),
    h("label", { class: "check" }, turned, h("span", {}, "descending")), field("Page", size),
    h("button", { type: "submit", class: "button primary" }, "Apply"),
    button("Clear", () => { where.value = ""; order.value = ""; turned.checked = false; load(true); }));
  const lookup = h("form", { class: "row", onsubmit: async (event) => {
    event.preventDefault();
    if (one.value.trim() === "") return;
    openPoint(name, readId(one.value), { may, go, changed: () => load(false) });
  } }, one, h("button", { type: "submit", class: "button" }, "Open"));
  put(root, form, known, problem, h("div", { class: "row" }, total, h("div", { class: "grow" }), lookup), list);

  function state() {
    return { where: where.value.trim(), order: order.value.trim(), down: turned.checked && "1", size: size.value === "25" ? "" : size.value };
  }

  async function load(fresh) {
    const mine = ++asked;
    if (fresh) trail = [null];
    const { where: filter, order: by } = state();
    keep(state());
    list.setAttribute("aria-busy", "true");
    try {
      const request = { limit: Number(size.value), cursor: trail.at(-1), order_by: by || undefined, descending: Boolean(by) && turned.checked, where: filter || undefined };
      const [page, counted] = await Promise.all([
        call("POST", at(name, "points/scroll"), request, signal),
        call("POST", at(name, "points/count"), { where: filter || undefined }, signal)]);
      if (mine !== asked) return;
      put(problem);
      draw(page, Number(counted.count), filter);
    } catch (fault) {
      if (signal.aborted || mine !== asked) return;
      put(problem, errorBox(fault));
      put(list);
      total.textContent = "";
    } finally {
      if (mine === asked) list.removeAttribute("aria-busy");
    }
  }

  function draw(page, n, filter) {
    total.textContent = `${count(n)} ${n === 1 ? "point" : "points"}${filter ? " match the filter" : ""}`;
    if (!page.points.length && trail.length > 1) { trail.pop(); load(false); return; }
    if (!page.points.length) {
      put(list, filter ? empty("No point matches", "Try a wider filter.", button("Clear the filter", () => { where.value = ""; load(true); }))
        : empty("No points yet", "Write some with docs.upsert(…), POST …/points, or vicinal import."));
      return;
    }
    const seen = new Map();
    for (const point of page.points) for (const path of Object.keys(point.payload)) seen.set(path, (seen.get(path) ?? 0) + 1);
    const ranked = [...seen].sort((a, b) => b[1] - a[1]).map(([path]) => path);
    put(known, h("option", { value: "id" }), ...ranked.map((path) => h("option", { value: /^[A-Za-z_]\w*$/.test(path) ? path : `"${path}"` })));
    const columns = ranked.slice(0, COLUMNS_MAX);
    const more = ranked.length - columns.length;
    const rows = page.points.map((point) => h("tr", {},
      h("td", {}, h("button", { type: "button", class: "link mono", onclick: () => openPoint(name, point.id, { may, go, changed: () => load(false) }) }, brief(idText(point.id), 40)),
        idKind(point.id) !== "text" && h("span", { class: "kind" }, idKind(point.id))),
      columns.map((path) => h("td", { class: typeof point.payload[path] === "number" ? "num" : "clip" }, brief(point.payload[path], 80))),
      more > 0 && h("td", { class: "quiet" }, String(Object.keys(point.payload).filter((path) => !columns.includes(path)).length || "")),
      h("td", { class: "num quiet" }, String(point.version)), h("td", { class: "quiet nowrap" }, point.expires_at ? badge(when(point.expires_at), "warn") : "")));
    const first = page.points[0].payload;
    put(list, 
      table(`Points of ${name}`, ["Id", ...columns.map((path) => [brief(path, 30), typeof first[path] === "number" ? "num" : ""]), ...(more > 0 ? [`${more} more`] : []), ["Version", "num"], "Expires"], rows),
      h("div", { class: "row pager" },
        button("Previous", () => { trail.pop(); load(false); }, { icon: "back", disabled: trail.length === 1 }),
        h("span", { class: "quiet" }, `Page ${count(trail.length)} of ${count(Math.max(1, Math.ceil(n / Number(size.value))))}`),
        button("Next", () => { trail.push(page.cursor); load(false); }, { icon: "next", disabled: page.cursor === null })));
  }
  await load(true);
}
