// Draws an enlarged map: cells, dots for masked ones, labels, outlines. Lengths are CSS pixels.

import { FONT, LABELLED_CELL, SMALL_FONT, TITLE_FONT } from "./axes.js";

export function drawMap(context, axes, image, map, head, ink) {
  const { left, top, cell, width, height } = axes;
  const [wide, high] = [map.keys * cell, map.queries * cell];
  context.clearRect(0, 0, width, height);
  context.fillStyle = ink.masked;
  context.fillRect(left, top, wide, high);
  if (map.allowed && cell >= 4) drawDots(context, axes, map, head, ink.dots);
  context.imageSmoothingEnabled = false;
  context.drawImage(image, left, top, wide, high);
  context.strokeStyle = ink.line;
  context.lineWidth = 1;
  context.strokeRect(left - 0.5, top - 0.5, wide + 1, high + 1);
}

// The spectrogram of the sound that the keys are positions of, above their labels.
export function drawStrip(context, axes, image) {
  const { left, right, strip } = axes;
  context.imageSmoothingEnabled = false;
  context.drawImage(image, left, 18, right - left, strip - 2);
}

function drawDots(context, { left, top, cell }, map, head, colour) {
  context.fillStyle = colour;
  const size = cell >= 12 ? 2 : 1;
  for (let query = 0; query < map.queries; query++) {
    for (let key = 0; key < map.keys; key++) {
      if (map.isAllowed(head, query, key)) continue;
      const x = left + (key + 0.5) * cell - size / 2;
      context.fillRect(
        Math.round(x),
        Math.round(top + (query + 0.5) * cell - size / 2),
        size,
        size,
      );
    }
  }
}

export function drawLabels(context, axes, ink) {
  const { left, top, cell, right, bottom } = axes;
  context.fillStyle = ink.soft;
  context.font = TITLE_FONT;
  context.textBaseline = "middle";
  context.textAlign = "left";
  context.fillText("key (attended to) →", left, 8);
  context.save();
  context.translate(8, top);
  context.rotate(-Math.PI / 2);
  context.textAlign = "right";
  context.fillText("← query (attends)", 0, 0);
  context.restore();
  if (axes.labelled) {
    axes.queryLabels.forEach((_, query) => drawLabel(context, axes, { query }, ink.soft));
    axes.keyLabels.forEach((_, key) => drawLabel(context, axes, { key }, ink.soft));
    return;
  }
  context.font = FONT;
  context.textAlign = "right";
  for (const query of axes.ticks(axes.queryLabels.length)) {
    context.fillText(query, left - 5, Math.min(bottom, top + (query + 0.5) * cell));
  }
  context.textAlign = "left";
  for (const key of axes.ticks(axes.keyLabels.length)) {
    context.fillText(key, Math.min(right, left + key * cell), top - 8);
  }
}

// One token beside its row, or above its column, written upwards.
function drawLabel(context, axes, { query = null, key = null }, colour, paper = null) {
  const { left, top, cell } = axes;
  context.font = cell < 12 ? SMALL_FONT : FONT;
  context.textBaseline = "middle";
  context.fillStyle = colour;
  if (query !== null) {
    if (paper) erase(context, paper, colour, 20, top + query * cell, left - 22, cell);
    context.textAlign = "right";
    context.fillText(axes.queryLabels[query], left - 5, top + (query + 0.5) * cell);
  }
  if (key !== null) {
    const above = 20 + axes.strip;
    if (paper) erase(context, paper, colour, left + key * cell, above, cell, top - above - 2);
    context.save();
    context.translate(left + (key + 0.5) * cell, axes.flat ? top - 9 : top - 5);
    if (!axes.flat) context.rotate(-Math.PI / 2);
    context.textAlign = axes.flat ? "center" : "left";
    context.fillText(axes.keyLabels[key], 0, 0);
    context.restore();
  }
}

function erase(context, paper, ink, x, y, width, height) {
  context.fillStyle = paper;
  context.fillRect(x, y, width, height);
  context.fillStyle = ink;
}

export function drawMarks(context, axes, { query, key }, ink, width) {
  const { left, top, cell, right, bottom } = axes;
  const outline = (x, y, wide, high) => {
    context.lineWidth = width + 2;
    context.strokeStyle = ink.paper;
    context.strokeRect(x, y, wide, high);
    context.lineWidth = width;
    context.strokeStyle = ink.line;
    context.strokeRect(x, y, wide, high);
  };
  if (query !== null) outline(left, top + query * cell, right - left, cell);
  if (key !== null && query === null) outline(left + key * cell, top, cell, bottom - top);
  if (key !== null && query !== null) outline(left + key * cell, top + query * cell, cell, cell);
  if (cell < LABELLED_CELL) return;
  if (query !== null) drawLabel(context, axes, { query }, ink.line, ink.paper);
  if (key !== null) drawLabel(context, axes, { key }, ink.line, ink.paper);
}
