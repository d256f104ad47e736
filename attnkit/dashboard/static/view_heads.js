// Heads: three statistics of each head over training; one small chart per layer, one line per head.

import { element, setText } from "./element.js";
import { categorical } from "./palettes.js";
import { Plot } from "./plot.js";
import { roomBelow } from "./room.js";
import { number, visible } from "./tokens.js";

const SMALLEST = 84; // height of a chart
const LARGEST = 180;
const GAP = 8;
const MARGIN = 24;

const HINT =
  "Means over the queries that may attend to at least two keys; a click chooses head and step.";

const MEASURES = {
  entropy: ["Entropy", "nats; 0: one key, high: many equal weights"],
  distance: ["Distance", "tokens between query and key, mean"],
  first: ["First token", "mass on the first key, mean"],
};

export class HeadsView {
  #curves = null;
  #of = "";
  #charts = [];
  #measures = []; // those defined for this run

  constructor(app) {
    this.app = app;
    this.note = element("p", { class: "hint" });
    this.grid = element("div", { class: "multiples" });
    this.heads = element("div", { class: "key-of-heads", "aria-hidden": "true" });
    this.element = element("div", { class: "heads" }, this.heads, this.note, this.grid);
  }

  async update(model) {
    this.model = model;
    const { run, series } = model;
    const of = JSON.stringify([run, series.tag, series.started, series.steps.length]);
    if (of !== this.#of) {
      setText(this.note, "Computing …");
      try {
        this.#curves = await this.app.source.statistics(run, series.tag);
      } catch (error) {
        setText(this.note, error.message);
        this.grid.replaceChildren();
        this.#charts = [];
        return;
      }
      this.#of = of;
      this.#build();
    }
    this.#draw();
  }

  table() {
    const { steps, names } = this.#curves;
    const rows = steps.flatMap((step, i) =>
      names.flatMap((name, layer) => {
        const heads = this.#curves.entropy[i][layer]?.length ?? 0;
        return Array.from({ length: heads }, (_, head) => [
          step,
          name,
          head,
          ...Object.keys(MEASURES).map((measure) => this.#curves[measure][i][layer]?.[head] ?? ""),
        ]);
      }),
    );
    return [["step", "layer", "head", ...Object.keys(MEASURES)], ...rows];
  }

  // The largest value of each measure in this panel; the stage shares them between panels.
  peaks() {
    const peak = (measure) =>
      Math.max(0, ...(this.#curves?.[measure] ?? []).flat(2).filter(Number.isFinite));
    return Object.fromEntries(Object.keys(MEASURES).map((measure) => [measure, peak(measure)]));
  }

  // Charts grow to the height available for those of the largest model.
  align({ peaks, layer }) {
    if (!this.#charts.length) return;
    const room = roomBelow(this.#charts[0].element) - MARGIN;
    const height = Math.min(LARGEST, Math.max(SMALLEST, Math.floor(room / layer) - GAP));
    for (const chart of this.#charts) chart.fit(peaks[chart.measure] || 1, height);
  }

  #build() {
    const measures = Object.keys(MEASURES).filter((measure) =>
      this.#curves[measure].flat(1).some(Boolean),
    );
    this.#measures = measures;
    const titles = measures.map((measure) =>
      element(
        "div",
        { class: "measure" },
        element("b", {}, MEASURES[measure][0]),
        element("span", {}, MEASURES[measure][1]),
      ),
    );
    this.#charts = this.#curves.names.flatMap((_, layer) =>
      measures.map((measure) => {
        const heads = headCurves(this.#curves, measure, layer);
        return new HeadsChart(measure, layer, this.#curves.steps, heads, {
          choose: ({ key, x }) => {
            this.app.state.set({ layer, head: key });
            this.#go(x);
          },
          hover: (hit) => this.#describe(hit && { measure, layer, hit, value: heads[hit.key][hit.index] }),
        });
      }),
    );
    this.grid.style.setProperty("--measures", measures.length);
    const rows = this.#curves.names.flatMap((name, layer) => [
      element("span", { class: "layer", title: visible(name) }, visible(name)),
      ...this.#charts.filter((one) => one.layer === layer).map((one) => one.element),
    ]);
    this.grid.replaceChildren(element("span"), ...titles, ...rows);
    const most = Math.max(...this.#charts.map((one) => one.heads.length));
    this.heads.replaceChildren(...Array.from({ length: most }, (_, head) => keyOf(head)));
  }

  #draw() {
    const { layer, head, step } = this.model;
    for (const one of this.#charts) {
      const name = `${MEASURES[one.measure][0]}, layer ${visible(this.#curves.names[one.layer])}`;
      const index = Math.min(head, one.heads.length - 1);
      const value = this.#value(one.measure, one.layer, index);
      const label = `${name}: head ${index} ${value} at step ${step}`;
      one.update(step, one.layer === layer ? head : null, label);
    }
    this.#describe(null);
  }

  // The value of a head at the current step.
  #value(measure, layer, head) {
    const at = this.#curves.steps.indexOf(this.model.step);
    const value = this.#curves[measure][at]?.[layer]?.[head];
    return value == null ? "unknown" : number(value);
  }

  // Describes the point under the pointer, or the chosen head.
  #describe(found) {
    const { layer } = found ?? this.model;
    const head = found ? found.hit.key : this.model.head;
    const name = `${visible(this.#curves.names[layer])} · head ${head}`;
    const text = found
      ? `step ${found.hit.x}: ${MEASURES[found.measure][0].toLowerCase()} ${number(found.value)}`
      : this.#measures
          .map(
            (measure) =>
              `${MEASURES[measure][0].toLowerCase()} ${this.#value(measure, layer, head)}`,
          )
          .join(", ");
    this.note.replaceChildren(element("b", {}, name), ` ${text}. `, found ? "" : HINT);
  }

  #go(step) {
    const { steps } = this.app.selection;
    if (steps.includes(step)) this.app.goTo(steps.indexOf(step));
  }
}

// A small chart: one curve per head over the steps, on a logarithmic axis.
class HeadsChart {
  #limit = 1;
  #shown = null;

  constructor(measure, layer, steps, heads, { choose, hover }) {
    Object.assign(this, { measure, layer, steps, heads });
    this.plot = new Plot({ height: SMALLEST, isCompact: true, choose, hover });
    this.element = this.plot.element;
  }

  // Its largest value, and its height in pixels: both are common to all visible charts.
  fit(limit, height) {
    if (limit === this.#limit && height === this.plot.height) return;
    this.#limit = limit;
    this.plot.height = height;
    this.#draw();
  }

  update(step, head, label) {
    this.#shown = { step, head, label };
    this.#draw();
  }

  #draw() {
    if (!this.#shown) return;
    const { step, head, label } = this.#shown;
    const { steps } = this;
    const drawing = {
      x: { low: steps[0], high: steps.at(-1), kind: "log1p" },
      y: { low: 0, high: this.#limit },
      curves: this.heads.map((mean, key) => ({ key, x: steps, mean, colour: categorical(key) })),
      strong: head,
      at: step,
    };
    this.plot.update(drawing, label);
    this.plot.canvas.dataset.limit = this.#limit;
  }
}

function keyOf(head) {
  const stroke = element("i");
  stroke.style.background = categorical(head);
  return element("span", {}, stroke, `h${head}`);
}

// [head] -> values, one per step; null if a value is undefined.
function headCurves(curves, measure, layer) {
  const heads = Math.max(0, ...curves[measure].map((moment) => moment[layer]?.length ?? 0));
  return Array.from({ length: heads }, (_, head) =>
    curves[measure].map((moment) => moment[layer]?.[head] ?? null),
  );
}
