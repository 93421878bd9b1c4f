// The API keys: who may come in. For admins.

import { ApiError, call, key } from "./api.js";
import { badge, button, confirmDialog, copy, count, empty, errorBox, field, figure, h, openDialog, put, select, table, toast, when } from "./dom.js";

const DAY = 86400, MIB = 2 ** 20;

/** The view of #/keys. */
export async function keys({ root, signal, refresh, may }) {
  const title = h("h1", {}, "Keys");
  if (!may("admin")) throw new ApiError("Keys are for admins; the key of this session has another role.", 403, "forbidden");
  const { keys: found } = await call("GET", "v1/keys", undefined, signal);
  const make = () => button("New key", () => newKey(found, refresh), { kind: "primary", icon: "plus" });
  const problem = h("div", {});
  put(root, h("div", { class: "head row" }, title, h("div", { class: "grow" }), found.length ? make() : ""), problem, found.length ? table("API keys",
    ["Id", "Name", "Role", "Collections", ["Requests/s", "num"], "Quota", "Made", "Ends", ""], found.map((k) => h("tr", {},
      h("td", { class: "mono" }, k.id, key.get()?.startsWith(`vk_${k.id}_`) && h("span", { class: "kind" }, "this one")), h("td", {}, k.name || h("span", { class: "quiet" }, "none")),
      h("td", {}, badge(k.role, { admin: "accent", write: "warn" }[k.role] ?? "")), h("td", {}, k.collections === null ? "all" : k.collections.join(", ")),
      h("td", { class: "num" }, k.requests_per_s === null ? h("span", { class: "quiet" }, "server's") : figure(k.requests_per_s)), h("td", {}, quota(k)), h("td", { class: "nowrap" }, when(k.created)),
      h("td", { class: "nowrap" }, k.expires === null ? "never" : new Date(k.expires) < new Date() ? badge("over", "bad") : when(k.expires)),
      h("td", { class: "end" }, button("Revoke", () => revoke(k), { kind: "danger-quiet small", "aria-label": `Revoke key ${k.id} ${k.name}` })))))
    : empty("No keys yet", "Without keys this server answers its own machine only, and everybody there may do everything. The first key is an admin's; from then on the server asks for keys.", make()));

  async function revoke(k) {
    const own = key.get()?.startsWith(`vk_${k.id}_`);
    const text = `${k.name || "It"} (role ${k.role}) stops working within a second. ${own ? "This is the key of this session: you will be asked for another. " : ""}${found.length === 1 ? "It is the last one: a server of this machine then asks nobody for a key." : ""}`;
    if (!await confirmDialog(`Revoke key ${k.id}?`, text, "Revoke the key")) return;
    try {
      await call("POST", "v1/keys/revoke", { id: k.id });
      toast("Revoked");
      refresh();
    } catch (fault) {
      put(problem, errorBox(fault));
    }
  }
}

/** What a key's collections may hold together. */
function quota(k) {
  const parts = [];
  if (k.points_max !== null) parts.push(`${count(k.points_max)} points`);
  if (k.bytes_max !== null) parts.push(`${figure(k.bytes_max / MIB)} MiB`);
  return parts.length ? parts.join(", ") : h("span", { class: "quiet" }, "none");
}

function newKey(found, refresh) {
  const first = !found.length;
  const name = h("input", { autocomplete: "off", maxlength: "128" });
  const role = select([["read", "read: look and search"], ["write", "write: change points too"], ["admin", "admin: everything"]], first ? "admin" : "read");
  const names = h("input", { autocomplete: "off", spellcheck: "false", placeholder: "all" });
  const days = select([["", "never"], ["1", "in a day"], ["7", "in a week"], ["30", "in 30 days"], ["90", "in 90 days"], ["365", "in a year"]], first ? "" : "90");
  const rate = h("input", { type: "number", min: "0.1", step: "any", placeholder: "the server's" });
  const points = h("input", { type: "number", min: "1", step: "1", placeholder: "no limit" });
  const mib = h("input", { type: "number", min: "0.001", step: "any", placeholder: "no limit" });
  const problem = h("div", {});
  role.disabled = names.disabled = days.disabled = points.disabled = mib.disabled = first;
  const form = h("form", {
    class: "stack",
    onsubmit: async (event) => {
      event.preventDefault();
      const chosen = names.value.split(",").map((part) => part.trim()).filter(Boolean);
      try {
        const made = await call("POST", "v1/keys", { name: name.value, role: role.value, collections: chosen.length ? chosen : undefined,
          valid_s: days.value ? Number(days.value) * DAY : undefined, requests_per_s: rate.value ? Number(rate.value) : undefined,
          points_max: points.value ? Number(points.value) : undefined, bytes_max: mib.value ? Math.round(Number(mib.value) * MIB) : undefined });
        if (first) key.set(made.key);
        close();
        showKey(made, first, refresh);
      } catch (fault) {
        put(problem, errorBox(fault));
      }
    },
  },
  first && h("p", {}, "This is the first key: an admin's, for all collections. This page goes on with it."),
  field("Name", name, { wide: true, hint: "Whose key it is." }), field("Role", role, { wide: true }),
  field("Collections", names, { wide: true, hint: "Names with commas between; empty for all." }), field("Ends", days, { wide: true }),
  field("Requests a second", rate, { wide: true }), field("Points at most", points, { wide: true, hint: "Of its collections together." }),
  field("MiB at most", mib, { wide: true, hint: "Of their files." }), problem,
  h("div", { class: "row end" }, button("Cancel", () => close()), h("button", { type: "submit", class: "button primary" }, "Make the key")));
  const { close } = openDialog("New key", form);
}

function showKey(made, first, refresh) {
  const text = h("input", { class: "mono", readonly: true, value: made.key, onfocus: () => text.select() });
  openDialog("Keep this key", h("div", { class: "stack" },
    h("p", {}, "It is shown this once: the server keeps only a hash of it."), field("Key", text, { wide: true }),
    h("div", { class: "row end" }, button("Copy", () => copy(made.key, "The key"), { icon: "copy", kind: "primary" }))),
  { onclose: () => (first ? location.reload() : refresh()) });
}
