// What a map shows: weights, weights times lengths of values, or rollout. `attention_page/modes.py`
// has the equations and the papers.

import { Layer } from "./record.js";
import { visible } from "./tokens.js";

export const MODE_NAMES = {
  weights: "Weights",
  values: "Weights × value lengths",
  rollout: "Rollout",
};

// Most multiplications of a rollout, which blocks the page for up to about half a second.
const MAX_PRODUCTS = 1.5e8;

// The record in a mode, as {record}, or why there is none, as {problem}. `sites`: of the run.
export function inMode(record, mode, tag, sites) {
  if (mode === "weights") return { record };
  return mode === "values" ? withLengths(record) : rollout(record, tag, sites);
}

function withLengths(record) {
  if (!record.layers.some((layer) => layer.lengths !== undefined)) {
    return { problem: "These maps were logged without the lengths of the values." };
  }
  const missing = record.layers.filter((layer) => !layer.lengths);
  if (missing.length) {
    const names = missing.map((layer) => visible(layer.name)).join(", ");
    return {
      problem:
        `Value lengths are not defined for ${names}: the mechanism is not linear in the values, or ` +
        "changes the heads after it has mixed them.",
    };
  }
  const layers = record.layers.map((layer) => {
    const exact = new Float32Array(layer.heads * layer.cells);
    for (let at = 0; at < exact.length; at++) {
      const head = Math.floor(at / layer.cells);
      const weight = layer.exact ? layer.exact[at] : layer.table[layer.codes[at]];
      exact[at] = weight * layer.lengths[head * layer.keys + (at % layer.keys)];
    }
    const norm = layer.isSigned ? "signed" : "unnormalised";
    return Layer.ofNumbers({ ...layer, norm, exact });
  });
  return { record: { ...record, layers, shows: "weight × length of the value that it hands over" } };
}

function rollout(record, tag, sites) {
  const isCross = record.kind === "cross";
  if (isCross || sites.includes(tag.replace(/self$/, "cross"))) {
    const where = isCross ? "for cross-attention" : "with cross-attention between the layers";
    return {
      problem: `Rollout is not defined ${where}: its tokens also come from another sequence.`,
    };
  }
  const size = record.queries.length;
  const products = ((record.layers.length - 1) * size ** 3) / (record.causal ? 6 : 1);
  if (products > MAX_PRODUCTS) {
    return {
      problem:
        `Rollout is not computed: ${record.layers.length} layers of ${size} tokens take too long here. ` +
        "attnkit attention RUN --text TEXT --mode rollout --out maps.png computes it.",
    };
  }
  const layers = [];
  let before = null; // of the layers below; null: the identity
  for (const layer of record.layers) {
    if (layer.norm !== "rows") break;
    before = step(layer, size, before);
    const exact = new Float32Array(before.exact);
    const allowed = cellsOf(before.reached, size);
    layers.push(Layer.ofNumbers({ ...layer, heads: 1, isOfAllHeads: true, exact, allowed }));
  }
  const stopped = record.layers[layers.length];
  const why = stopped && `not defined from ${visible(stopped.name)} on: its rows do not sum to 1`;
  if (!layers.length) return { problem: `Rollout is ${why}.` };
  const shows = "rollout: one half stays, heads averaged";
  return { record: { ...record, layers, shows: why ? `${shows}; ${why}` : shows } };
}

// (A / 2 + I / 2) times the rollout of the layers below, and a bit for each cell that it reaches.
// Stored weights are rounded, so each row is divided by its sum.
function step(layer, size, before) {
  const exact = new Float64Array(size * size);
  const words = Math.ceil(size / 32);
  const reached = new Uint32Array(size * words);
  const ends = new Uint32Array(size); // one past the last input that a query reaches
  for (let query = 0; query < size; query++) {
    const { mean, seen } = meanRow(layer, query);
    const start = query * size;
    seen[query] = 1;
    for (let key = 0; key < size; key++) {
      if (!seen[key]) continue;
      const part = mean[key] / 2 + (key === query ? 0.5 : 0);
      if (!before) {
        exact[start + key] = part;
        reached[query * words + (key >> 5)] |= 1 << (key & 31);
        ends[query] = key + 1;
        continue;
      }
      const end = before.ends[key];
      const below = before.exact;
      for (let input = 0, at = key * size; input < end; input++, at++) {
        exact[start + input] += part * below[at];
      }
      for (let word = 0; word < words; word++) {
        reached[query * words + word] |= before.reached[key * words + word];
      }
      ends[query] = Math.max(ends[query], end);
    }
  }
  return { exact, reached, ends };
}

// A byte for each cell; null: all are reached.
function cellsOf(reached, size) {
  const words = reached.length / size;
  const cells = new Uint8Array(size * size);
  for (let at = 0; at < cells.length; at++) {
    const key = at % size;
    cells[at] = (reached[((at - key) / size) * words + (key >> 5)] >>> (key & 31)) & 1;
  }
  return cells.includes(0) ? cells : null;
}

function meanRow(layer, query) {
  const { heads, keys } = layer;
  const mean = new Float64Array(keys);
  const seen = new Uint8Array(keys);
  for (let head = 0; head < heads; head++) {
    let sum = 0;
    for (let key = 0; key < keys; key++) sum += layer.weight(head, query, key);
    for (let key = 0; key < keys; key++) {
      if (sum > 0) mean[key] += layer.weight(head, query, key) / sum / heads;
      if (layer.isAllowed(head, query, key)) seen[key] = 1;
    }
  }
  return { mean, seen };
}
