// Difference: run A minus run B, or minus A's own first step, if the two are comparable.

import { nearestStep } from "./catalogue.js";
import { element, fill } from "./element.js";
import { facts } from "./facts.js";
import { PanelFrame } from "./panel.js";
import { runColour } from "./palettes.js";
import { Layer } from "./record.js";
import { scaleOf } from "./scales.js";
import { START, drawing } from "./selection.js";
import { readable, stepName, visible } from "./tokens.js";
import { MatrixView } from "./view_matrix.js";

export class DifferencePanel {
  #latest = 0;
  #shown = null;
  #cached = {};

  constructor(app) {
    this.app = app;
    this.frame = new PanelFrame("Difference", () => this.#shown);
    this.element = this.frame.element;
    this.element.classList.add("wide");
    this.a = this.#choice("Run A", "a");
    this.b = this.#choice("Run B", "b");
    this.dotB = element("span", { class: "dot", "aria-hidden": "true" });
    this.frame.title.replaceChildren(this.a, " − ", this.dotB, this.b);
    this.forget();
  }

  get model() {
    return this.#shown?.model ?? null;
  }

  align(sizes) {
    this.view.align(sizes);
  }

  forget() {
    this.view = new MatrixView(this.app);
  }

  async update({ values, selection }) {
    const latest = ++this.#latest;
    this.#list(selection);
    const { a, site, step } = selection;
    const ofStart = selection.b === START;
    const b = ofStart ? a : selection.b;
    this.frame.colour(runColour(this.app.catalogue, a));
    this.dotB.style.background = runColour(this.app.catalogue, b);
    const [first, second] = [a, b].map((run) => this.app.catalogue.find(run, site));
    if (!first || !second) {
      this.#refuse(`${readable(first ? b : a)} has no maps of this example and site.`);
      return;
    }
    const steps = [
      nearestStep(first.steps, step),
      ofStart ? second.steps[0] : nearestStep(second.steps, step),
    ];
    const found = await Promise.all(
      [first, second].map((series, i) => this.app.cache.get(series, steps[i])),
    );
    if (latest !== this.#latest) return;
    const failed = found.find(({ error }) => error);
    if (failed) {
      this.#refuse(failed.error.message);
      return;
    }
    const [one, other] = found.map(({ record }) => record);
    const reason = incomparable(one, other);
    if (reason) {
      this.#refuse(reason);
      return;
    }
    const model = drawing({ ...values, scale: scaleOf(values) }, this.#subtract(one, other), {
      run: a,
      step,
      selection,
    });
    const label = steps[0] === steps[1] ? stepName(steps[0]) : steps.map(stepName).join(" − ");
    this.frame.say(
      label,
      [...model.record.left, ...facts(model).filter((fact) => fact !== "signed weights")],
      null,
    );
    this.frame.show(this.view.element);
    this.view.update(model);
    this.#shown = { view: this.view, model };
  }

  #refuse(reason) {
    this.#shown = null;
    this.frame.say("", [], reason);
  }

  // The last difference is cached: a change of head or scale does not affect it.
  #subtract(one, other) {
    if (this.#cached.one !== one || this.#cached.other !== other) {
      this.#cached = { one, other, record: subtract(one, other) };
    }
    return this.#cached.record;
  }

  #choice(label, which) {
    const select = element("select", {
      "aria-label": label,
      onchange: () => {
        const { a, b } = this.app.selection;
        this.app.state.set({ a, b, [which]: select.value });
      },
    });
    return select;
  }

  #list({ runs, others, a, b }) {
    const named = (run) => [run, run === START ? "its own first step" : readable(run)];
    fill(this.a, runs.map(named));
    fill(this.b, others.map(named));
    this.a.value = a;
    this.b.value = b;
  }
}

// Why two records cannot be subtracted, or null.
export function incomparable(one, other) {
  const differing = (a, b) => a.findIndex((token, i) => token !== b[i]);
  for (const [what, a, b] of [
    ["query", one.queries, other.queries],
    ["key", one.keys, other.keys],
  ]) {
    if (a.length !== b.length)
      return `A has ${a.length} ${what} tokens and B ${b.length}, so they cannot be subtracted.`;
    const at = differing(a, b);
    if (at >= 0) {
      return `The ${what} tokens differ from number ${at} on: ${visible(a[at])} in A, ${visible(b[at])} in B.`;
    }
  }
  if (!pairs(one, other).length) return "No layer of A has as many heads as the same layer of B.";
  return null;
}

function pairs(one, other) {
  const count = Math.min(one.layers.length, other.layers.length);
  return Array.from({ length: count }, (_, i) => [one.layers[i], other.layers[i]]).filter(
    ([a, b]) => a.heads === b.heads,
  );
}

// A record of signed weights. All layers share one scale, so that their colours are comparable.
export function subtract(one, other) {
  const layerPairs = pairs(one, other);
  const exact = layerPairs.map(([a, b]) =>
    Float32Array.from(a.codes, (code, at) => a.table[code] - b.table[b.codes[at]]),
  );
  let peak = 0;
  for (const values of exact) for (const value of values) peak = Math.max(peak, Math.abs(value));
  const layers = layerPairs.map(([a, b], i) =>
    Layer.ofNumbers({ ...a, norm: "signed", exact: exact[i], allowed: union(a, b) }, peak),
  );
  return {
    ...one,
    causal: one.causal && other.causal,
    layers,
    note: "",
    isDifference: true,
    left: leftOut(one, other, layerPairs),
  };
}

// Draws the cells that at least one of the two allows.
function union(a, b) {
  if (!a.allowed || !b.allowed) return null;
  if (a.allowed === b.allowed) return a.allowed;
  const cells = new Uint8Array(Math.max(a.allowed.length, b.allowed.length));
  return cells.map((_, at) => a.allowed[at % a.allowed.length] | b.allowed[at % b.allowed.length]);
}

function leftOut(one, other, layerPairs) {
  const [a, b] = [one.layers.length, other.layers.length];
  const [common, all] = [Math.min(a, b), Math.max(a, b)];
  const gaps = [];
  if (common < all)
    gaps.push(`${all - common} of ${all} layers left out: ${a < b ? "A" : "B"} has only ${common}`);
  if (layerPairs.length < common)
    gaps.push(`${common - layerPairs.length} of ${all} layers left out: different numbers of heads`);
  return gaps;
}
