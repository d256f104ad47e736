// The scores of the head clinic: their names and units, and their colours.

import { LEVELS, MIDDLE, Ramp } from "./palettes.js";
import { number, readable } from "./tokens.js";

// Score -> its name, what it is, and its range: "share" (0 to 1), "signed" (around 0, up to 1),
// "change" (around 0), or "size" (from 0).
const KNOWN = {
  induction: ["Induction", "mass on the token after an earlier copy, on repeated random tokens", "share"],
  previous: ["Previous token", "mass on the previous token, on repeated random tokens", "share"],
  duplicate: ["Duplicate token", "mass on an earlier copy of the token, on repeated random tokens", "share"],
  current: ["Own token", "mass on the token itself, on repeated random tokens", "share"],
  first: ["First token", "mass on the first key", "share"],
  entropy: ["Entropy", "nats; 0: one key", "size"],
  evenness: ["Evenness", "entropy as a share of that of equal weights", "share"],
  distance: ["Distance", "tokens between query and key, mean", "size"],
  effective_rank: ["Effective rank", "number of patterns that the rows combine", "size"],
  diagonality: ["Diagonality", "1: along the diagonal; 0: as equal weights", "signed"],
  alignment_error: ["Alignment error", "against the gold alignments; 0: none", "share"],
  copying: ["Copying", "1: raises the logits of the tokens that it attends to", "signed"],
  largest_score: ["Largest score", "before the normalisation", "change"],
  knock_out_mean: ["Knock-out, mean", "rise of the loss with the head's mean in its place", "change"],
  knock_out_zero: ["Knock-out, zero", "rise of the loss with zero in its place", "change"],
};

export class Score {
  // `limit` is the largest absolute value that the page shows.
  constructor(name, limit = 1) {
    this.name = name;
    [this.title, this.meaning, this.range] = KNOWN[name] ?? [readable(name), "", "change"];
    this.limit = this.range === "share" || this.range === "signed" ? 1 : limit || 1;
    this.isSigned = this.range === "signed" || this.range === "change";
  }

  // The known scores in the order of their list, then the others.
  static sorted(names) {
    const known = Object.keys(KNOWN);
    const place = (name) => (known.includes(name) ? known.indexOf(name) : known.length);
    return [...names].sort((a, b) => place(a) - place(b) || a.localeCompare(b));
  }

  ramp(colours) {
    return Ramp.of(this.isSigned ? "diverging" : colours);
  }

  level(value) {
    const part = Math.max(this.isSigned ? -1 : 0, Math.min(1, value / this.limit));
    return Math.round(this.isSigned ? MIDDLE + MIDDLE * part : LEVELS * part);
  }

  labels() {
    const end = number(this.limit);
    return this.isSigned ? [`−${end}`, `+${end}`] : ["0", end];
  }
}

// A value in at most five characters.
export function inCell(value) {
  const size = Math.abs(value);
  const text = size >= 100 ? size.toFixed(0) : size >= 9.95 ? size.toFixed(1) : size.toFixed(2);
  return (value < 0 && Number(text) !== 0 ? "−" : "") + text.replace(/^0\./, ".");
}
