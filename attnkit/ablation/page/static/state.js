// The state of the page, and its address.

import { Address, flag, names, oneOf, text, whole } from "./address.js";

export const UNITS = ["step", "tokens", "FLOPs", "seconds"];
export const KINDS = [
  "all",
  "better",
  "worse",
  "within noise",
  "not decided",
  "running",
  "failed",
  "stopped",
  "queued",
];

export const INITIAL = {
  study: null, // null: the first
  base: null, // null: that of the study
  metric: null,
  tag: null, // the curve; null: that of the metric
  over: "step",
  cost: null, // null: the one in which the variants differ
  log: false,
  seeds: false, // also the curve of each seed
  filter: "",
  kind: "all",
  off: [], // variants that are not drawn
  sort: null, // a column; with a minus, descending
  page: 0,
};

export const ADDRESS = new Address("ablations", {
  study: text,
  base: text,
  metric: text,
  tag: text,
  over: oneOf(UNITS),
  cost: text,
  log: flag,
  seeds: flag,
  filter: text,
  kind: oneOf(KINDS),
  off: { ...names, write: (value) => value },
  sort: { ...text, read: ([one]) => (/^-?\d{1,2}$/.test(one) ? one : undefined) },
  page: whole,
});
