// The state of the page as a plain object: all views and the address are functions of it.

export const VIEWS = ["matrix", "lines", "tokens", "heads", "difference"];
// Views that depend on the scale and the colours: lines are as strong as their weights, text is
// tinted, differences have their own colours.
export const SCALED = ["matrix", "tokens", "difference"];
export const COLOURED = ["matrix"];

export const SCALES = ["row", "absolute", "log", "uniform"];
export const COLOURS = ["cividis", "viridis", "grey"];

const INITIAL = {
  runs: null, // names, in the order of the panels; null: no choice yet
  site: null, // a tag: attention/<example>/<site>
  view: "matrix",
  step: null, // null: the last one, also while training continues
  layer: 0,
  head: 0,
  query: null, // the pinned query token
  key: null, // the pinned token that is looked at
  hidden: [], // heads that Lines does not draw
  against: null, // {a, b}: the runs of Difference
  scale: "row",
  colours: "cividis",
  zoom: 0, // steps of enlargement; 0 fits the panel
  filter: "",
};

export class State {
  #listeners = [];
  #scheduled = false;

  constructor(values = {}) {
    this.values = { ...INITIAL, ...values };
  }

  listen(listener) {
    this.#listeners.push(listener);
  }

  // Changes values; listeners are called once, before the next frame.
  set(changes) {
    const keys = Object.keys(changes);
    if (keys.every((key) => Object.is(this.values[key], changes[key]))) return;
    this.values = { ...this.values, ...changes };
    this.refresh();
  }

  replace(values) {
    this.values = { ...INITIAL, ...values };
    this.refresh();
  }

  refresh() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      for (const listener of this.#listeners) listener(this.values);
    });
  }
}

// The position of the pointer, linked over all panels; not stored.
export class Hover {
  #listeners = new Set();
  value = null; // {query, key}, either may be null

  listen(listener) {
    this.#listeners.add(listener);
  }

  set(value) {
    if (value?.query === this.value?.query && value?.key === this.value?.key) return;
    this.value = value;
    for (const listener of this.#listeners) listener(value);
  }
}
