// Heads: three numbers of each head over training, a small chart a layer, a line a head.

import { fetchStatistics } from "./api.js";
import { Chart } from "./chart.js";
import { element, setText } from "./element.js";
import { categorical } from "./palettes.js";
import { number, visible } from "./tokens.js";

const MEASURES = {
  entropy: ["Entropy", "nats; 0: one key, high: many alike"],
  distance: ["Distance", "tokens between query and key, mean"],
  first: ["First token", "mass on the first key, mean"],
};

export class HeadsView {
  #curves = null;
  #of = "";
  #charts = [];

  constructor(app) {
    this.app = app;
    this.note = element("p", { class: "hint" });
    this.grid = element("div", { class: "multiples" });
    this.heads = element("div", { class: "key-of-heads", "aria-hidden": "true" });
    this.element = element("div", { class: "heads" }, this.heads, this.grid, this.note);
  }

  async update(model) {
    this.model = model;
    const { run, series } = model;
    const of = JSON.stringify([run, series.tag, series.started, series.steps.length]);
    if (of !== this.#of) {
      setText(this.note, "Computing …");
      try {
        this.#curves = await fetchStatistics(run, series.tag);
      } catch (error) {
        setText(this.note, error.message);
        this.grid.replaceChildren();
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

  // The largest value of each measure here; the stage makes them common to all panels.
  peaks() {
    const peak = (measure) =>
      Math.max(0, ...(this.#curves?.[measure] ?? []).flat(2).filter(Number.isFinite));
    return Object.fromEntries(Object.keys(MEASURES).map((measure) => [measure, peak(measure)]));
  }

  align(sizes) {
    for (const one of this.#charts) one.chart.limit(sizes.peaks?.[one.measure] || 1);
  }

  #build() {
    const measures = Object.keys(MEASURES).filter((measure) =>
      this.#curves[measure].flat(1).some(Boolean),
    );
    const titles = measures.map((measure) =>
      element(
        "div",
        { class: "measure" },
        element("b", {}, MEASURES[measure][0]),
        element("span", {}, MEASURES[measure][1]),
      ),
    );
    const peaks = this.peaks();
    this.#charts = this.#curves.names.flatMap((_, layer) =>
      measures.map((measure) => {
        const heads = headCurves(this.#curves, measure, layer);
        const chart = new Chart(this.#curves.steps, heads, {
          label: `${MEASURES[measure][0]}, layer ${layer}`,
          choose: (head) => this.app.state.set({ layer, head }),
          go: (step) => this.#go(step),
          tell: (head, step, value) => this.#tell(measure, layer, head, step, value),
        });
        chart.limit(peaks[measure] || 1);
        return { measure, layer, chart };
      }),
    );
    this.grid.style.setProperty("--measures", measures.length);
    const rows = this.#curves.names.flatMap((name, layer) => [
      element("span", { class: "layer", title: visible(name) }, visible(name)),
      ...this.#charts.filter((one) => one.layer === layer).map((one) => one.chart.element),
    ]);
    this.grid.replaceChildren(element("span"), ...titles, ...rows);
    const most = Math.max(...this.#charts.map((one) => one.chart.curves.length));
    this.heads.replaceChildren(...Array.from({ length: most }, (_, head) => keyOf(head)));
    this.#tell(null);
  }

  #draw() {
    const { layer, head, step } = this.model;
    for (const one of this.#charts) one.chart.update(step, one.layer === layer ? head : null);
  }

  #tell(measure, layer, head, step, value) {
    const name = measure && visible(this.#curves.names[layer]);
    const said = measure
      ? `${MEASURES[measure][0]} of ${name}, head ${head}, step ${step}: ${number(value)}`
      : "";
    const hint =
      "Mean over the queries that may look at two keys or more. A click chooses head and step.";
    setText(this.note, said || hint);
  }

  #go(step) {
    const { steps } = this.app.selection;
    if (steps.includes(step)) this.app.goTo(steps.indexOf(step));
  }
}

function keyOf(head) {
  const stroke = element("i");
  stroke.style.background = categorical(head);
  return element("span", {}, stroke, `h${head}`);
}

// [head] -> values, one a step; null where a value is undefined.
function headCurves(curves, measure, layer) {
  const heads = Math.max(0, ...curves[measure].map((moment) => moment[layer]?.length ?? 0));
  return Array.from({ length: heads }, (_, head) =>
    curves[measure].map((moment) => moment[layer]?.[head] ?? null),
  );
}
