// What a map shows: weights, weights times lengths of values, or rollout. `attention_page/modes.py`
// has the equations and the papers.

import { Layer } from "./record.js";
import { visible } from "./tokens.js";

export const MODE_NAMES = {
  weights: "Weights",
  values: "Weights × value lengths",
  rollout: "Rollout",
};

// The record in a mode, as {record}; or why it has none, as {problem}. `sites` are those of the run.
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
  const layers = [];
  let before = null; // of the layers below; null: the identity
  for (const layer of record.layers) {
    if (layer.norm !== "rows") break;
    before = step(layer, size, before);
    const { exact, reached } = before;
    const allowed = reached.every(Boolean) ? null : reached;
    layers.push(Layer.ofNumbers({ ...layer, heads: 1, isOfAllHeads: true, exact, allowed }));
  }
  const stopped = record.layers[layers.length];
  const why = stopped && `not defined from ${visible(stopped.name)} on: its rows do not sum to 1`;
  if (!layers.length) return { problem: `Rollout is ${why}.` };
  const shows = "rollout: one half stays, heads averaged";
  return { record: { ...record, layers, shows: why ? `${shows}; ${why}` : shows } };
}

// (A / 2 + I / 2) times what is below, and which cells it can reach. Stored weights are rounded, so
// each row is divided by its sum.
function step(layer, size, before) {
  const exact = new Float32Array(size * size);
  const reached = new Uint8Array(size * size);
  for (let query = 0; query < size; query++) {
    const row = meanRow(layer, query);
    for (let key = 0; key < size; key++) {
      const isOwn = key === query;
      const seen = isOwn || row.seen[key];
      if (!seen) continue;
      const part = row.mean[key] / 2 + (isOwn ? 0.5 : 0);
      if (!before) {
        exact[query * size + key] = part;
        reached[query * size + key] = 1;
        continue;
      }
      for (let input = 0; input < size; input++) {
        exact[query * size + input] += part * before.exact[key * size + input];
        reached[query * size + input] |= before.reached[key * size + input];
      }
    }
  }
  return { exact, reached };
}

function meanRow(layer, query) {
  const mean = new Float64Array(layer.keys);
  const seen = new Uint8Array(layer.keys);
  for (let head = 0; head < layer.heads; head++) {
    const weights = layer.row(head, query);
    const sum = weights.reduce((total, weight) => total + weight, 0);
    weights.forEach((weight, key) => {
      if (sum > 0) mean[key] += weight / sum / layer.heads;
      if (layer.isAllowed(head, query, key)) seen[key] = 1;
    });
  }
  return { mean, seen };
}
