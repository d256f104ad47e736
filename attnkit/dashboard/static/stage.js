// The panels side by side, one per selected run; or a message if there are none.

import { nearestStep } from "./catalogue.js";
import { element } from "./element.js";
import { emptyState } from "./empty.js";
import { Panel } from "./panel.js";
import { DifferencePanel } from "./difference.js";
import { linkScrolling } from "./scrolling.js";
import { number, quoted } from "./tokens.js";

const AHEAD = 8; // steps, in both directions
const REST = 60; // milliseconds

const LEVEL_PARTS = [".panel > header", ".thumbnails", ".caption", ".heads-grid", ".formed"];

const pause = (milliseconds) => new Promise((resume) => setTimeout(resume, milliseconds));

export class Stage {
  #panels = new Map();
  #drawing = 0;

  constructor(app) {
    this.app = app;
    this.element = element("section", { class: "stage", "aria-label": "Attention maps" });
    this.difference = new DifferencePanel(app);
    linkScrolling(this.element);
  }

  // Discards drawings after a change of theme.
  forget() {
    for (const panel of [...this.#panels.values(), this.difference]) panel.forget();
  }

  update(values, selection) {
    const drawing = ++this.#drawing;
    this.element.dataset.state = "busy";
    const empty = emptyState(this.app.catalogue, selection, values.run);
    if (empty) {
      this.element.replaceChildren(empty);
      this.element.dataset.state = "ready";
      return;
    }
    const done =
      values.view === "difference"
        ? this.#drawDifference(values, selection)
        : this.#drawRuns(values, selection);
    Promise.all(done).then(() => {
      if (drawing !== this.#drawing) return;
      this.#align();
      this.element.dataset.state = "ready";
      this.element.dataset.step = selection.step;
      if (!(values.view in this.app.catalogue.files)) this.#prefetch(selection, drawing);
    });
  }

  #drawRuns(values, selection) {
    for (const run of [...this.#panels.keys()]) {
      if (!selection.runs.includes(run)) this.#panels.delete(run);
    }
    const panels = selection.runs.map((run) => this.#panel(run));
    this.#show(panels.map((panel) => panel.element));
    return panels.map((panel) => {
      const series = this.app.catalogue.find(panel.run, selection.site);
      const step = series && nearestStep(series.steps, selection.step);
      return panel.update({ values, selection, series, step });
    });
  }

  #drawDifference(values, selection) {
    this.#show([this.difference.element]);
    return [this.difference.update({ values, selection })];
  }

  // Aligns the parts of neighbouring panels.
  #align() {
    const sizes = { ...this.sizes(), peaks: commonPeaks(this.#shown()) };
    this.element.style.setProperty("--heads", Math.max(1, sizes.head));
    this.element.style.setProperty("--layers", Math.max(1, sizes.layer));
    for (const part of LEVEL_PARTS) level([...this.element.querySelectorAll(part)]);
    for (const panel of this.#shown()) panel.align(sizes);
  }

  // Layers, heads and queries of the largest model on the page; zeros without one.
  sizes() {
    const most = { layer: 0, head: 0, query: 0 };
    for (const { clinic, moment } of this.#shown().map((one) => one.model ?? {})) {
      most.layer = Math.max(most.layer, clinic?.rows.length ?? 0);
      most.head = Math.max(most.head, ...(clinic?.rows.map((row) => row.length) ?? []));
      most.query = Math.max(most.query, moment?.tokens.length ?? 0);
    }
    for (const { record } of this.#models()) {
      most.layer = Math.max(most.layer, record.layers.length);
      most.head = Math.max(most.head, ...record.layers.map((one) => one.heads));
      most.query = Math.max(most.query, record.queries.length);
    }
    return most;
  }

  // The key with the largest weight of a query, in the first panel that has it.
  rowText(query) {
    const model = this.#models().find(({ record }) => query < record.queries.length);
    if (!model) return "";
    const [most] = model.map.strongest(model.head, query, 1);
    const strongest = most
      ? `${quoted(model.record.keys[most.key])}, ${number(most.weight)}`
      : "nothing";
    return `query ${query}, ${quoted(model.record.queries[query])}, attends most to ${strongest}`;
  }

  // The models that are drawn from a record.
  #models() {
    return this.#shown()
      .map((one) => one.model)
      .filter((model) => model?.record);
  }

  #shown() {
    return [...this.#panels.values(), this.difference].filter((one) => one.element.isConnected);
  }

  #panel(run) {
    if (!this.#panels.has(run)) this.#panels.set(run, new Panel(this.app, run));
    return this.#panels.get(run);
  }

  #show(elements) {
    const now = [...this.element.children];
    const same = now.length === elements.length && elements.every((one, i) => one === now[i]);
    if (!same) this.element.replaceChildren(...elements);
  }

  // Prefetches the steps around this one, the nearest first, while idle: they are then in the cache
  // when the slider moves, and current requests never wait for them.
  async #prefetch({ runs, site, steps, index }, drawing) {
    for (let distance = 1; distance <= AHEAD; distance++) {
      for (const step of [steps[index + distance], steps[index - distance]]) {
        await pause(REST);
        if (drawing !== this.#drawing) return;
        const series = runs.map((run) => this.app.catalogue.find(run, site)).filter(Boolean);
        const requested = step === undefined ? [] : series;
        await Promise.all(
          requested.map((one) => this.app.cache.get(one, nearestStep(one.steps, step))),
        );
      }
    }
  }
}

// Gives all the height of the tallest one.
function level(parts) {
  const heights = parts.map((part) => {
    const { top } = part.getBoundingClientRect();
    return Math.max(
      0,
      ...[...part.children].map((one) => one.getBoundingClientRect().bottom - top),
    );
  });
  const height = `${Math.ceil(Math.max(0, ...heights))}px`;
  for (const { style } of parts) if (style.minHeight !== height) style.minHeight = height;
}

// The largest value of each measure of Heads, so that all its charts have one scale.
function commonPeaks(panels) {
  const peaks = {};
  for (const panel of panels) {
    for (const [measure, value] of Object.entries(panel.peaks?.() ?? {})) {
      peaks[measure] = Math.max(peaks[measure] ?? 0, value);
    }
  }
  return peaks;
}
