// The state of the page, and its address.

import { Address, names, oneOf, text, whole, wholes } from "./address.js";

export const VIEWS = ["matrix", "lines", "tokens", "heads", "clinic", "contributions", "difference"];
// Views that depend on the scale and the colours: lines are as strong as their weights, text is
// tinted, differences have their own colours.
export const SCALED = ["matrix", "tokens", "difference"];
export const COLOURED = ["matrix", "clinic"];

// Views that show weights times value lengths, and rollout, too.
export const MODED = ["matrix", "lines", "tokens"];
export const MODES = ["weights", "values", "rollout"];

export const GOALS = ["next", "top"];
export const SCALES = ["row", "absolute", "log", "uniform"];
export const COLOURS = ["cividis", "viridis", "grey"];

export const INITIAL = {
  run: null, // names, in the order of the panels; null: no choice yet
  site: null, // a tag: attention/<example>/<site>
  view: "matrix",
  step: null, // null: the last one, also while training continues
  layer: 0,
  head: 0,
  query: null, // the pinned query token
  key: null, // the pinned key
  hidden: [], // heads that Lines does not draw
  a: null, // the runs of Difference
  b: null,
  mode: "weights",
  scale: "row",
  colours: "cividis",
  score: null, // of Clinic; null: the first that a run has
  goal: "next", // of Contributions: the token whose logit counts
  zoom: 0, // steps of enlargement; 0 fits the panel
  filter: "",
  from: null, // the address of the Ablations page that led here
};

// Keys keep their order in the address.
export const ADDRESS = new Address("attention", {
  run: names,
  site: text,
  filter: text,
  view: oneOf(VIEWS),
  mode: oneOf(MODES),
  scale: oneOf(SCALES),
  colours: oneOf(COLOURS),
  step: whole,
  layer: whole,
  head: whole,
  query: whole,
  key: whole,
  zoom: whole,
  score: text,
  goal: oneOf(GOALS),
  hidden: wholes,
  a: text,
  b: text,
  from: text,
});

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
