// Calls of the REST API, and the key, which is kept for this tab's session only.

import { format, parse } from "./json.js";

const BASE = new URL("../", document.baseURI.split("#")[0]);
const KEY = "vicinal-key";

/** An answer that is no success, or none at all. */
export class ApiError extends Error {
  constructor(message, status, code, details) {
    super(message);
    this.status = status;
    this.code = code;
    this.details = details ?? {};
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (text) => sessionStorage.setItem(KEY, text),
  forget: () => sessionStorage.removeItem(KEY),
};

async function send(method, path, body, signal, type) {
  const headers = { Accept: type };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer, text;
  try {
    answer = await fetch(new URL(path, BASE), {
      method, headers, signal, cache: "no-store", credentials: "omit",
      body: body === undefined ? undefined : format(body),
    });
    text = await answer.text();
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    throw new ApiError("The server does not answer. Is it still running?", 0, "unreachable");
  }
  if (answer.ok) return text;
  let error = { code: "unknown", message: `The server answered with status ${answer.status}.` };
  try {
    error = parse(text).error ?? error;
  } catch {
    error.message += ` ${text.slice(0, 200)}`;
  }
  const fault = new ApiError(error.message, answer.status, error.code, error.details);
  if (answer.status === 401) dispatchEvent(new CustomEvent("vicinal-key-needed"));
  throw fault;
}

/** One call with a JSON answer. */
export async function call(method, path, body, signal) {
  return parse(await send(method, path, body, signal, "application/json"));
}

/** The text at a path. */
export function text(path, signal) { return send("GET", path, undefined, signal, "*/*"); }

/** The path of something in a collection. */
export function at(collection, ...rest) {
  return ["v1/collections", encodeURIComponent(collection), ...rest].join("/");
}

let schemas;

/** The fields that a message of the API has; the page offers what the server knows. */
export async function fields(message) {
  schemas ??= text("openapi.json").then((page) => JSON.parse(page).components.schemas);
  try {
    return new Set(Object.keys((await schemas)[message]?.properties ?? {}));
  } catch (fault) {
    schemas = undefined;
    throw fault;
  }
}
