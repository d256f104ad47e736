// Learning curves: per variant the mean over its finished seeds, with their range; runs that have
// not finished are thin lines.

import { brief, extent, padded } from "./axis.js";
import { element, fill, setText } from "./element.js";
import { fileName } from "./export.js";
import { categorical } from "./palettes.js";
import { Plot, dashOf } from "./plot.js";
import { UNITS } from "./state.js";
import { plotPanel, select } from "./toolbar.js";

const HEIGHT = 340;
const MAX_DESCRIBED = 6;

export class CurvesPlot {
  #curves = [];
  #drawn = {};
  #stressed = null;

  constructor(app) {
    this.app = app;
    const { state } = app;
    this.tag = select("curve", (tag) => state.set({ tag }));
    this.over = select("over", (over) => state.set({ over }));
    fill(this.over.list, UNITS.map((unit) => [unit, unit]));
    this.log = checkbox("logarithmic", (log) => state.set({ log }));
    this.seeds = checkbox("each seed", (seeds) => state.set({ seeds }));
    this.plot = new Plot({ height: HEIGHT, hover: (hit) => this.#describe(hit) });
    const parts = {
      plot: this.plot,
      controls: [this.tag.element, this.over.element, this.log.element, this.seeds.element],
      file: () => fileName("curves", this.app.view.id, this.ytitle),
      table: () => this.table(),
    };
    Object.assign(this, plotPanel("Learning curves", parts));
  }

  update(values, view, curves, { drawn }) {
    const { theme } = document.documentElement.dataset;
    const names = drawn.map((one) => [one.place, one.name]);
    const choices = JSON.stringify([theme, view.id, values.over, values.log, values.seeds, names]);
    if (curves === this.#drawn.curves && choices === this.#drawn.choices) return;
    this.#drawn = { curves, choices };
    fill(
      this.tag.list,
      curves.tags.map((tag) => [tag, tag]),
    );
    this.tag.list.value = curves.tag;
    this.over.list.value = values.over;
    this.log.box.checked = values.log;
    this.seeds.box.checked = values.seeds;
    setText(this.title, "Learning curves");
    this.unit = values.over;
    this.ytitle = curves.tag;
    const byPlace = new Map(drawn.map((one) => [one.place, one]));
    const seeds = curves.seeds.map((seed) => this.#seed(seed, curves, byPlace.get(seed.variant)));
    const found = [
      ...seeds.filter((one) => !one?.isSoFar),
      ...curves.curves.map((curve) => this.#mean(curve, curves, byPlace.get(curve.variant))),
      ...seeds.filter((one) => one?.isSoFar), // a thin line shows above a mean, not below it
    ];
    const known = found.filter((one) => one && one.x);
    this.missing = found.filter((one) => one && !one.x).length;
    this.#curves = known;
    this.#draw(values.log);
  }

  stress(name) {
    if (this.#stressed === name) return;
    this.#stressed = name;
    if (this.drawing) this.#draw(this.app.state.values.log);
  }

  // Variant, seed, and a column per number; "mean" stands for the mean over finished seeds.
  table() {
    const rows = this.#curves.flatMap((one) =>
      one.x.map((x, i) => [
        one.name,
        one.seed ?? "mean",
        x,
        one.mean[i] ?? "",
        one.low?.[i] ?? "",
        one.high?.[i] ?? "",
      ]),
    );
    return [["variant", "seed", this.unit, this.ytitle, "lowest seed", "highest seed"], ...rows];
  }

  #mean(curve, { steps }, variant) {
    if (!variant) return null;
    return {
      ...this.#line(variant, steps[curve.steps], curve.per),
      key: variant.name,
      mean: curve.mean,
      low: curve.low,
      high: curve.high,
      n: curve.n,
    };
  }

  #seed({ seed, steps, values, per, finished }, curves, variant) {
    if (!variant) return null;
    return {
      ...this.#line(variant, curves.steps[steps], per),
      key: `${variant.name}\n${seed}`,
      seed,
      isSoFar: !finished,
      isThin: true,
      mean: values,
      low: null,
      high: null,
    };
  }

  #line({ name, label, place }, steps, per) {
    const factor = this.unit === "step" ? 1 : per?.[this.unit];
    const x = factor === 1 ? steps : factor ? steps.map((step) => step * factor) : null;
    return { variant: name, name: label, colour: categorical(place), dash: dashOf(place), x };
  }

  #draw(isLog) {
    const y = extent(this.#curves.flatMap(({ mean, low, high }) => [mean, low ?? [], high ?? []]));
    const x = extent(this.#curves.map((one) => one.x));
    this.plot.element.hidden = !y || !x;
    if (!y || !x) {
      setText(this.read, this.#emptyText());
      return;
    }
    const canLog = isLog && y[0] > 0;
    const stressed = this.#stressed;
    const isStressed = this.#curves.some((one) => one.key === stressed);
    this.drawing = {
      x: x[1] > x[0] ? { low: x[0], high: x[1], name: this.unit } : single(x[0], this.unit),
      y: { ...padded(...y, canLog), name: this.ytitle },
      curves: this.#curves,
      strong: isStressed ? stressed : null,
    };
    const label = `${this.ytitle} over ${this.unit}: ${this.#curves.length} curves; arrow keys move`;
    this.plot.update(this.drawing, label);
    this.#describe(this.plot.hit);
  }

  #emptyText() {
    const { view, state, curves } = this.app;
    if (this.missing) return `The ${this.unit} per step are known once a run has finished.`;
    if (!curves?.tags.length) return "No run has logged a curve yet.";
    if (state.values.off.length >= view.variants.length) return "No variant is chosen.";
    return `None of these variants has logged ${curves.tag}.`;
  }

  // Describes the curve under the pointer, and others at the same place.
  #describe(hit) {
    const near = hit && this.#curves.find((one) => one.key === hit.key);
    this.app.table.mark(near ? this.#placeOf(near) : null);
    if (!near) {
      const soFar = this.#curves.some((one) => one.isSoFar);
      const left = this.missing ? ` Left out: ${this.missing} without known ${this.unit}.` : "";
      const validation = this.ytitle.endsWith("/val")
        ? " The table shows the final validation, after the last step; it may use more tokens."
        : "";
      setText(
        this.read,
        `Line: mean of finished seeds; band: lowest to highest.${soFar ? " Thin: runs without a result." : ""}${left}${validation}`,
      );
      return;
    }
    const others = this.#curves
      .filter((one) => one !== near && one.seed === undefined)
      .map((one) => ({ one, i: one.x.findIndex((x) => x >= hit.x * (1 - 1e-9)) }))
      .filter(({ i }) => i >= 0)
      .slice(0, MAX_DESCRIBED);
    this.read.replaceChildren(
      element("b", {}, `${this.unit} ${brief(hit.x)}`),
      ` ${valueText(near, hit.index)}`,
      ...others.map(({ one, i }) => ` · ${valueText(one, i)}`),
    );
  }

  #placeOf({ variant }) {
    return this.app.view.variants.findIndex((one) => one.name === variant);
  }
}

// A single step, in the middle.
function single(x, name) {
  return { low: x - 1, high: x + 1, name };
}

function valueText(one, i) {
  const name = one.seed === undefined ? one.name : `${one.name} seed ${one.seed}`;
  const value = one.mean[i];
  if (value == null) return `${name} not finite`;
  const range = one.low && one.low[i] !== one.high[i] ? ` (${brief(one.low[i])} to ${brief(one.high[i])}, n=${one.n})` : "";
  return `${name} ${brief(value)}${range}`;
}

function checkbox(label, choose) {
  const box = element("input", { type: "checkbox", onchange: () => choose(box.checked) });
  return { box, element: element("label", {}, box, label) };
}
