// The metric of each variant, with its interval, against a cost.

import { brief, extent, padded } from "./axis.js";
import { element, fill, setText } from "./element.js";
import { fileName } from "./export.js";
import { categorical } from "./palettes.js";
import { Plot } from "./plot.js";
import { plotPanel, select } from "./toolbar.js";

const HEIGHT = 340;
const SPREAD = 1.01; // costs within this factor count as equal
const WIDE = 4; // above this factor the axis is logarithmic
const HINT = "Bars: 95 % interval of the mean. Point at a variant, or use the arrow keys.";

export class CostsPlot {
  #points = [];

  constructor(app) {
    this.app = app;
    this.cost = select("against", (cost) => app.state.set({ cost }));
    this.plot = new Plot({ height: HEIGHT, hover: (hit) => this.#describe(hit) });
    const parts = {
      plot: this.plot,
      controls: [this.cost.element],
      file: () => fileName("costs", this.app.view.id, this.key),
    };
    Object.assign(this, plotPanel("Metric against cost", parts));
  }

  update(values, view, { all, drawn }) {
    fill(this.cost.list, Object.entries(view.costs));
    this.key = values.cost in view.costs ? values.cost : differing(view.costs, all);
    this.cost.list.value = this.key;
    const metric = view.table?.metric ?? "";
    this.words = view.costs[this.key];
    setText(
      this.title,
      metric ? `${metric} (${view.table.lowerIsBetter ? "lower" : "higher"} is better)` : "",
    );
    this.#points = drawn
      .filter(({ row }) => row && row[this.key] !== null && row.mean !== null)
      .map(({ name, label, place, row }) => ({
        key: name,
        name: label,
        place,
        x: row[this.key],
        y: row.mean,
        low: row.low,
        high: row.high,
        colour: categorical(place),
      }));
    this.plot.element.hidden = !this.#points.length;
    if (!this.#points.length) {
      setText(this.read, metric ? "These variants do not have both numbers." : "No run has finished yet.");
      return;
    }
    const [low, high] = extent([this.#points.map((one) => one.x)]);
    const isWide = low > 0 && high / low > WIDE;
    const ends = extent([this.#points.flatMap(({ y, low, high }) => [y, low ?? y, high ?? y])]);
    this.plot.update(
      {
        x: { ...padded(low, high, isWide), name: this.words + (isWide ? " (logarithmic)" : "") },
        y: { ...padded(...ends), name: metric },
        points: this.#points,
      },
      `${metric} against ${this.words}: ${this.#points.length} variants; arrow keys move`,
    );
    this.#describe(this.plot.hit);
  }

  #describe(hit) {
    const point = hit && this.#points.find((one) => one.key === hit.key);
    this.app.table.mark(point ? point.place : null);
    if (!point) {
      setText(this.read, HINT);
      return;
    }
    const range = point.low === null ? "" : ` (95 %: ${brief(point.low)} to ${brief(point.high)})`;
    this.read.replaceChildren(
      element("b", {}, point.name),
      ` ${brief(point.y)}${range}, ${this.words} ${brief(point.x)}`,
    );
  }
}

// The first cost that differs between the variants.
function differing(costs, variants) {
  const isDifferent = (key) => {
    const range = extent([variants.map(({ row }) => row?.[key] ?? null)]);
    return range !== null && range[1] > SPREAD * range[0];
  };
  return Object.keys(costs).find(isDifferent) ?? "parameters";
}
