// All maps: one row per layer, one column per head. Also a grid for screen readers.

import { element, setAttribute } from "./element.js";
import { paintMap } from "./paint.js";
import { Ramp } from "./palettes.js";
import { effectiveScale, isDiverging, levels } from "./scales.js";
import { visible } from "./tokens.js";

const MAX_SIDE = 64;

export class Thumbnails {
  #rows = []; // [layer][head] -> button
  #shape = "";
  #painted = "";
  #record = null;

  constructor(app) {
    this.app = app;
    this.element = element("div", {
      class: "thumbnails",
      role: "grid",
      onkeydown: (event) => this.#move(event),
    });
  }

  update({ record, layer, head, values }) {
    this.#build(record);
    this.#paint(record, values);
    this.#rows.forEach((row, i) => {
      row.forEach((button, j) => {
        const chosen = i === layer && j === head;
        setAttribute(button, "aria-selected", chosen);
        button.tabIndex = chosen ? 0 : -1;
      });
    });
  }

  #build(record) {
    const shape = JSON.stringify(
      record.layers.map((one) => [one.name, one.heads, one.queries, one.keys, one.isOfAllHeads]),
    );
    if (shape === this.#shape) return;
    this.#shape = shape;
    this.#painted = "";
    const most = Math.max(...record.layers.map((one) => one.heads));
    const { queries, keys } = record.layers[0];
    const ratio = Math.max(0.4, Math.min(2.5, keys / queries));
    this.element.style.setProperty("--ratio", ratio);
    setAttribute(
      this.element,
      "aria-label",
      `maps of ${record.layers.length} layers, up to ${most} heads`,
    );
    const numbers = Array.from({ length: most }, (_, j) =>
      element("span", { class: "column" }, record.layers[0].headMark(j)),
    );
    this.#rows = record.layers.map((one, i) =>
      Array.from({ length: one.heads }, (_, j) => this.#button(one, i, j)),
    );
    this.element.replaceChildren(
      element("div", { class: "row", "aria-hidden": "true" }, element("span"), ...numbers),
      ...this.#rows.map((row, i) => {
        const name = visible(record.layers[i].name);
        return element(
          "div",
          { class: "row", role: "row" },
          element("span", { class: "layer", title: name }, name),
          ...row,
        );
      }),
    );
  }

  #button(layer, i, j) {
    const choose = () => this.app.state.set({ layer: i, head: j });
    const label = `layer ${visible(layer.name)}, ${layer.headName(j)}`;
    return element(
      "button",
      { class: "thumbnail", role: "gridcell", title: label, "aria-label": label, onclick: choose },
      element("canvas"),
    );
  }

  #paint(record, { scale, colours }) {
    const painted = `${scale} ${colours}`;
    if (record === this.#record && painted === this.#painted) return;
    this.#record = record;
    this.#painted = painted;
    record.layers.forEach((layer, i) => {
      const diverging = isDiverging(layer, effectiveScale(layer, scale));
      const ramp = Ramp.of(diverging ? "diverging" : colours);
      this.#rows[i].forEach((button, j) => {
        const { queries, keys } = layer;
        paintMap(
          button.firstChild,
          levels(layer, j, scale),
          queries,
          keys,
          ramp,
          diverging,
          MAX_SIDE,
        );
      });
    });
  }

  #move(event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const i = this.#rows.findIndex((row) => row.includes(event.target));
    const layer = Math.max(0, Math.min(i + step[0], this.#rows.length - 1));
    const row = this.#rows[layer];
    const head = Math.max(
      0,
      Math.min(this.#rows[i].indexOf(event.target) + step[1], row.length - 1),
    );
    row[head].focus();
    this.app.state.set({ layer, head });
    this.app.announcer.say(row[head].getAttribute("aria-label"));
  }
}
