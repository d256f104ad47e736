// Maps weights to colour levels, 0 to 254; masked cells do not affect the scale.

import { LEVELS, MASKED, MIDDLE } from "./palettes.js";

const DECADES = 4;
const DOUBLINGS = 4;

export const SCALE_NAMES = {
  row: "Row maximum",
  absolute: "Absolute",
  log: "Logarithmic",
  uniform: "Against uniform",
};

// A difference is signed: its rows are not normalised, since that would exaggerate small ones.
export function scaleOf({ view, scale }) {
  return view === "difference" && scale !== "log" ? "absolute" : scale;
}

// The scale of a layer: signed weights cannot be compared with a uniform row.
export function effectiveScale(layer, scale) {
  return layer.isSigned && scale === "uniform" ? "absolute" : scale;
}

export function isDiverging(layer, scale) {
  return layer.isSigned || scale === "uniform";
}

// The levels of one head: Uint8Array, queries by keys. Plain loops, since it runs for every cell.
export function levels(layer, head, scale) {
  const { queries, keys, allowed, table } = layer;
  const out = new Uint8Array(layer.cells);
  const codes = layer.codes.subarray(head * layer.cells, (head + 1) * layer.cells);
  const mask =
    allowed?.subarray(layer.maskStart(head), layer.maskStart(head) + layer.cells) ?? null;
  const effective = effectiveScale(layer, scale);
  const fill = { row: fillByLargest, uniform: fillAgainstUniform }[effective];
  if (!fill) {
    const map = fixedLevels(layer, effective);
    for (let at = 0; at < out.length; at++) out[at] = map[codes[at]];
  } else {
    for (let query = 0; query < queries; query++) {
      fill(out, codes, mask, table, layer.isSigned, query * keys, (query + 1) * keys);
    }
  }
  if (mask) for (let at = 0; at < out.length; at++) if (!mask[at]) out[at] = MASKED;
  return out;
}

// The level of each of the 256 codes, if it is the same in all rows.
function fixedLevels(layer, scale) {
  return Uint8Array.from(layer.table, (weight) =>
    layer.isSigned ? signedLevel(weight, layer.peak, scale) : level(weight, layer.peak, scale),
  );
}

function fillByLargest(out, codes, mask, table, isSigned, start, end) {
  let largest = 0;
  for (let at = start; at < end; at++) {
    if (!mask || mask[at]) largest = Math.max(largest, Math.abs(table[codes[at]]));
  }
  const zero = isSigned ? MIDDLE : 0;
  const factor = (LEVELS - zero) / (largest || 1);
  for (let at = start; at < end; at++) out[at] = zero + table[codes[at]] * factor + 0.5;
}

function fillAgainstUniform(out, codes, mask, table, _, start, end) {
  let sum = 0;
  let count = 0;
  for (let at = start; at < end; at++) {
    if (mask && !mask[at]) continue;
    sum += table[codes[at]];
    count += 1;
  }
  for (let at = start; at < end; at++) {
    const ratio = sum > 0 ? (table[codes[at]] * count) / sum : 1;
    const part = ratio > 0 ? Math.log2(ratio) / DOUBLINGS : -1;
    out[at] = MIDDLE + MIDDLE * Math.max(-1, Math.min(1, part)) + 0.5;
  }
}

function level(weight, peak, scale) {
  return Math.round(LEVELS * clamp(scale === "log" ? decades(weight / peak) : weight / peak));
}

function signedLevel(weight, peak, scale) {
  const size = Math.abs(weight) / peak;
  const part = clamp(scale === "log" ? decades(size) : size);
  return Math.round(MIDDLE + Math.sign(weight) * MIDDLE * part);
}

function decades(part) {
  return part > 0 ? 1 + Math.log10(part) / DECADES : 0;
}

function clamp(part) {
  return Math.max(0, Math.min(1, part));
}

// The labels of a layer's colour bar, from its lowest to its highest level.
export function scaleLabels(layer, scale, show) {
  const effective = effectiveScale(layer, scale);
  const peak = effective === "row" ? "row max" : show(layer.peak);
  const log = effective === "log" ? " (log)" : "";
  if (effective === "uniform") return [`≤ 1⁄${2 ** DOUBLINGS} of uniform`, `≥ ${2 ** DOUBLINGS} ×`];
  if (layer.isSigned) return [`−${peak}`, `+${peak}${log}`];
  return [log ? `≤ ${show(layer.peak / 10 ** DECADES)}` : "0", `${peak}${log}`];
}
