// The frame of the page: which view an address shows, the key, the colours.

import { ApiError, call, key } from "./api.js";
import { address, badge, button, errorBox, field, h, iconButton, openDialog, put, toast } from "./dom.js";
import { collections } from "./collections.js";
import { overview } from "./overview.js";
import { points } from "./points.js";
import { search } from "./search.js";
import { map } from "./map.js";
import { metrics } from "./metrics.js";
import { keys } from "./keys.js";

const MAIN = [["collections", "Collections", collections], ["metrics", "Metrics", metrics], ["keys", "Keys", keys]];
const TABS = [["", "Overview", overview], ["points", "Points", points], ["search", "Search", search], ["map", "Map", map]];
const THEMES = ["auto", "light", "dark"];

const main = document.getElementById("main");
let running = new AbortController();
let shown = null;
let server = null;

function place() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").filter(Boolean).map((part) => {
    try { return decodeURIComponent(part); } catch { return part; }
  });
  return { parts: parts.length ? parts : ["collections"], query: new URLSearchParams(query ?? "") };
}

async function show() {
  const { parts, query } = place();
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const [section, name, tab = ""] = parts;
  put(document.getElementById("nav"), ...MAIN.map(([id, title]) =>
    h("a", { href: address([id]), "aria-current": id === section ? (name ? "true" : "page") : null }, title)));
  const inside = section === "collections" && name !== undefined;
  const found = inside ? TABS.find(([id]) => id === tab) : MAIN.find(([id]) => id === section);
  const here = parts.join("/");
  const moved = shown !== null && shown !== here;
  shown = here;
  const root = h("div", { class: "view" });
  document.title = `${inside ? `${name} · ` : ""}${found?.[1] ?? "Not found"} · Vicinal`;
  put(main, ...(inside ? [collectionHead(name, tab)] : []), root);
  if (moved) { main.focus({ preventScroll: true }); scrollTo(0, 0); }
  const context = {
    root, query, signal, name,
    go: (more, options) => { location.hash = address(more, options); },
    /** Keep the state of a view in its address, without showing it anew. */
    keep: (options) => history.replaceState(null, "", address(parts, options)),
    refresh: show,
    may: (role) => ["read", "write", "admin"].indexOf(server?.role ?? "admin") >= ["read", "write", "admin"].indexOf(role),
  };
  try {
    server ??= await call("GET", "v1/info", undefined, signal);
    session();
    if (!found) throw new ApiError(`There is no page ${location.hash}.`, 404, "not_found");
    await found[2](context);
  } catch (fault) {
    if (fault.name === "AbortError" || signal.aborted) return;
    if (!(fault instanceof ApiError)) console.error(fault);
    put(root, errorBox(fault, show));
  }
}

function collectionHead(name, tab) {
  return h("div", { class: "head" },
    h("nav", { class: "crumbs", "aria-label": "Where you are" }, h("a", { href: address(["collections"]) }, "Collections"), h("span", { "aria-hidden": "true" }, "/")),
    h("h1", { class: "name" }, name),
    h("nav", { class: "tabs", "aria-label": `Views of ${name}` }, TABS.map(([id, title]) =>
      h("a", { href: address(["collections", name, ...(id ? [id] : [])]), "aria-current": id === tab ? "page" : null }, title))));
}

function session() {
  const theme = localStorage.getItem("vicinal-theme") ?? "auto";
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  const icons = { auto: "auto", light: "sun", dark: "moon" };
  put(document.getElementById("session"), 
    ...(server ? [h("span", { class: "version quiet" }, `v${server.version}`), server.read_only && badge("read-only", "warn"), server.role && badge(`${server.role} key`)].filter(Boolean) : []),
    ...(key.get() ? [button("Sign out", () => { key.forget(); server = null; session(); show(); }, { kind: "quiet-button small" })] : []),
    iconButton(`Colours: ${theme}; change to ${next}`, icons[theme], () => { localStorage.setItem("vicinal-theme", next); paint(); session(); }));
}

function paint() {
  const theme = localStorage.getItem("vicinal-theme") ?? "auto";
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  dispatchEvent(new CustomEvent("vicinal-theme"));
}

let asking = false;
function askForKey() {
  if (asking) return;
  asking = true;
  let given = false;
  const input = h("input", { type: "password", autocomplete: "off", spellcheck: "false", required: true, placeholder: "vk_…" });
  const refused = key.get() !== null;
  const form = h("form", { class: "stack", onsubmit: (event) => { event.preventDefault(); given = true; key.set(input.value.trim()); close(); } },
    refused && errorBox({ code: "unauthenticated", message: "The key that was given is not valid, or no longer." }),
    h("p", {}, "This server wants an API key. It is kept for this tab only, and forgotten when the tab closes."),
    field("API key", input, { wide: true, hint: "Made with: vicinal keys create DATABASE --role admin" }),
    h("div", { class: "row end" }, h("button", { type: "submit", class: "button primary" }, "Use this key")));
  const { close } = openDialog("API key", form, {
    onclose: () => { asking = false; if (given) { server = null; show(); } },
  });
}

addEventListener("vicinal-key-needed", askForKey);
addEventListener("hashchange", show);
addEventListener("unhandledrejection", (event) => {
  if (event.reason?.name === "AbortError") { event.preventDefault(); return; }
  toast(event.reason?.message ?? "Something went wrong on this page", "bad");
});
document.getElementById("skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
paint();
session();
show();
