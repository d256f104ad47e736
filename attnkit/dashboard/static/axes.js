// Layout of the cells and labels of an enlarged map, in CSS pixels.

import { short } from "./tokens.js";

const TITLE = 18; // room for the name of an axis
const GAP = 6;
const MAX_CELL = 48;
const MAX_SIDE = 4096; // larger canvases need too much memory
const LONG_LABEL = 132; // in a wide panel
const SHORT_LABEL = 92;
const WIDE = 560;
const MAX_LETTERS = 20; // of a token
const LEGIBLE_CELL = 10;
export const LABELLED_CELL = 9; // smaller cells have no room for tokens

const MONO = 'ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace';
export const FONT = `11px ${MONO}`;
export const SMALL_FONT = `10px ${MONO}`; // for cells lower than a line of the other font
export const TITLE_FONT =
  '11px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif';

export class Axes {
  // `width` is the available width; `height` the desired one, if cells stay legible.
  constructor(context, queries, keys, { width, height, zoom, strip = 0 }) {
    context.font = FONT;
    const longest = width >= WIDE ? LONG_LABEL : SHORT_LABEL;
    const label = (token) => fitted(context, token, longest);
    this.queryLabels = queries.map(label);
    this.keyLabels = keys.map(label);
    const wide = (labels) =>
      Math.ceil(Math.max(...labels.map((one) => context.measureText(one).width)));
    const room = (size) => TITLE + GAP + Math.max(14, size);
    this.strip = strip; // room for a spectrogram above the labels of the keys
    this.left = room(wide(this.queryLabels));
    this.top = strip + room(0);
    const size = () => {
      const fit = Math.min(
        (width - this.left - GAP) / keys.length,
        Math.max(LEGIBLE_CELL, (height - this.top - GAP) / queries.length),
      );
      return this.#cell(fit, Math.max(queries.length, keys.length), zoom);
    };
    this.cell = size();
    // Key tokens are horizontal if each has room above its column; otherwise vertical.
    this.flat = wide(this.keyLabels) <= this.cell - 1;
    if (!this.flat) {
      this.top = strip + room(wide(this.keyLabels));
      this.cell = size();
    }
    this.labelled = this.cell >= LABELLED_CELL;
    if (!this.labelled) {
      // Numbers instead of tokens: at most four digits.
      this.left = TITLE + GAP + 24;
      this.top = strip + TITLE + GAP + 12;
      this.cell = size();
    }
    this.right = this.left + keys.length * this.cell;
    this.bottom = this.top + queries.length * this.cell;
    this.width = Math.ceil(this.right) + GAP;
    this.height = Math.ceil(this.bottom) + GAP;
  }

  #cell(fit, tokens, zoom) {
    const zoomed = Math.max(0.25, Math.min(MAX_CELL, fit)) * 1.5 ** zoom;
    const cell = Math.min(zoomed, MAX_SIDE / tokens);
    return cell >= 2 ? Math.floor(cell) : cell;
  }

  // Returns the cell or label at a point: {query, key}, with null where there is none.
  at(x, y, queries, keys) {
    const query = Math.floor((y - this.top) / this.cell);
    const key = Math.floor((x - this.left) / this.cell);
    const onQuery = y >= this.top && query < queries;
    const onKey = x >= this.left && key < keys;
    if (!onQuery && !onKey) return null;
    return { query: onQuery ? query : null, key: onKey ? key : null };
  }

  // Positions that are numbered where tokens do not fit.
  ticks(count) {
    const rough = 36 / this.cell;
    const step = [8, 16, 32, 64, 128, 256].find((one) => one >= rough) ?? 512;
    return Array.from({ length: Math.ceil(count / step) }, (_, i) => i * step);
  }
}

// Truncates a token to the available width: letters of some scripts are twice as wide as others.
function fitted(context, token, room) {
  let letters = MAX_LETTERS;
  let label = short(token, letters);
  while (letters > 2 && context.measureText(label).width > room) label = short(token, --letters);
  return label;
}
