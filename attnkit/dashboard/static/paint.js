// Maps as pixels.

import { MASKED, MIDDLE } from "./palettes.js";

// Writes at most one pixel per cell: `levels` is queries by keys, pooled to at most `maxSide`.
export function paintMap(canvas, levels, queries, keys, ramp, diverging, maxSide) {
  const pooled = pool(levels, queries, keys, maxSide, diverging);
  if (canvas.width !== pooled.width || canvas.height !== pooled.height) {
    canvas.width = pooled.width;
    canvas.height = pooled.height;
  }
  const context = canvas.getContext("2d", { willReadFrequently: true }); // in memory: no GPU
  const image = context.createImageData(pooled.width, pooled.height);
  const words = new Uint32Array(image.data.buffer);
  for (let i = 0; i < words.length; i++) words[i] = ramp.words[pooled.levels[i]];
  context.putImageData(image, 0, 0);
}

// Keeps the most extreme cell of each block, so that no single bright cell is lost.
function pool(levels, queries, keys, maxSide, diverging) {
  const side = Math.ceil(Math.max(queries, keys) / maxSide);
  if (side <= 1) return { levels, width: keys, height: queries };
  const width = Math.ceil(keys / side);
  const height = Math.ceil(queries / side);
  const out = new Uint8Array(width * height).fill(MASKED);
  const best = new Int16Array(width * height).fill(-1);
  for (let query = 0; query < queries; query++) {
    const row = Math.floor(query / side) * width;
    for (let key = 0; key < keys; key++) {
      const level = levels[query * keys + key];
      if (level === MASKED) continue;
      const strength = diverging ? Math.abs(level - MIDDLE) : level;
      const at = row + Math.floor(key / side);
      if (strength > best[at]) {
        best[at] = strength;
        out[at] = level;
      }
    }
  }
  return { levels: out, width, height };
}
