// The state as an address: #attention&p.attention.view=lines&p.attention.run=...
// TensorBoard reserves this prefix for plugins.

import { COLOURS, SCALES, VIEWS } from "./state.js";

const PREFIX = "p.attention.";
const CHOICES = { view: VIEWS, scale: SCALES, colours: COLOURS };
const TEXTS = ["site", "filter"];
const NUMBERS = ["step", "layer", "head", "query", "key", "zoom"];

export function toHash(values) {
  const parts = ["attention"];
  const add = (key, value) => parts.push(`${PREFIX}${key}=${encodeURIComponent(value)}`);
  for (const run of values.runs ?? []) add("run", run);
  if (values.runs?.length === 0) add("run", ""); // an explicit choice of no run
  for (const key of [...TEXTS, ...Object.keys(CHOICES), ...NUMBERS]) {
    const value = values[key];
    if (value !== null && value !== "" && !(key === "zoom" && value === 0)) add(key, value);
  }
  for (const head of values.hidden) add("hidden", head);
  if (values.against) {
    add("a", values.against.a);
    add("b", values.against.b);
  }
  return parts.join("&");
}

// The page's part of an address; "" if there is none.
export function ownPart(hash) {
  return hash
    .split("&")
    .filter((part) => part.startsWith(PREFIX))
    .join("&");
}

// Reads known keys and ignores invalid values, since an address is untrusted.
export function fromHash(hash) {
  const values = {};
  const all = (key) => entries.filter(([name]) => name === key).map(([, value]) => value);
  const entries = hash
    .split("&")
    .filter((part) => part.startsWith(PREFIX) && part.includes("="))
    .map((part) => [part.slice(PREFIX.length, part.indexOf("=")), decode(part)]);
  if (all("run").length) values.runs = [...new Set(all("run").filter(Boolean))];
  for (const key of TEXTS) if (all(key).length) values[key] = all(key)[0];
  for (const [key, choices] of Object.entries(CHOICES)) {
    if (choices.includes(all(key)[0])) values[key] = all(key)[0];
  }
  for (const key of NUMBERS) {
    if (all(key).some(isWhole)) values[key] = Number(all(key).find(isWhole));
  }
  values.hidden = all("hidden").filter(isWhole).map(Number);
  if (all("a").length && all("b").length) values.against = { a: all("a")[0], b: all("b")[0] };
  return values;
}

function isWhole(text) {
  return /^\d{1,15}$/.test(text);
}

function decode(part) {
  try {
    return decodeURIComponent(part.slice(part.indexOf("=") + 1));
  } catch {
    return "";
  }
}
