// A small chart: one line per head over the steps, on a logarithmic axis.

import { element, setAttribute } from "./element.js";
import { categorical } from "./palettes.js";
import { number } from "./tokens.js";

export const HEIGHT = 84; // minimum
const PAD = { left: 4, right: 6, top: 16, bottom: 16 };
const APART = 34; // minimum distance of axis labels

export class Chart {
  #hovered = null;
  #limit = 1;
  #height = HEIGHT;

  constructor(steps, curves, { choose, go, tell }) {
    this.steps = steps;
    this.curves = curves;
    this.canvas = element("canvas", { role: "img" });
    this.element = element("div", { class: "chart" }, this.canvas);
    const at = (event) => this.#at(event);
    this.canvas.addEventListener("pointermove", (event) => {
      const hit = at(event);
      this.#hover(hit);
      tell(hit && { head: hit.head, step: steps[hit.index], value: hit.value });
    });
    this.canvas.addEventListener("pointerleave", () => {
      this.#hover(null);
      tell(null);
    });
    this.canvas.addEventListener("click", (event) => {
      const hit = at(event);
      if (!hit) return;
      choose(hit.head);
      go(steps[hit.index]);
    });
    new ResizeObserver(() => this.#draw()).observe(this.element);
  }

  // Its largest value, and its height in pixels: both are common to all visible charts.
  fit(limit, height) {
    if (limit === this.#limit && height === this.#height) return;
    this.#limit = limit;
    this.#height = height;
    this.#draw();
  }

  // `label` describes the chart to screen readers.
  update(step, head, label) {
    this.step = step;
    this.head = head;
    setAttribute(this.canvas, "aria-label", label);
    this.#draw();
  }

  #hover(hit) {
    if (hit?.head === this.#hovered?.head && hit?.index === this.#hovered?.index) return;
    this.#hovered = hit;
    this.#draw();
  }

  #x(step) {
    const last = Math.log1p(this.steps.at(-1)) || 1;
    return PAD.left + (Math.log1p(Math.max(0, step)) / last) * (this.width - PAD.left - PAD.right);
  }

  #y(value) {
    const bottom = this.#height - PAD.bottom;
    return bottom - (value / this.#limit) * (bottom - PAD.top);
  }

  // The nearest point of a line: {head, index, value}.
  #at({ offsetX, offsetY }) {
    if (!this.width) return null;
    const distances = this.steps.map((step) => Math.abs(this.#x(step) - offsetX));
    const index = distances.indexOf(Math.min(...distances));
    let best = null;
    this.curves.forEach((values, head) => {
      if (values[index] === null) return;
      const far = Math.abs(this.#y(values[index]) - offsetY);
      if (!best || far < best.far) best = { head, index, value: values[index], far };
    });
    return best;
  }

  #draw() {
    this.width = this.element.clientWidth;
    if (!this.width) return;
    const { canvas } = this;
    canvas.width = Math.round(this.width * devicePixelRatio);
    canvas.height = Math.round(this.#height * devicePixelRatio);
    canvas.style.width = `${this.width}px`;
    canvas.style.height = `${this.#height}px`;
    const context = canvas.getContext("2d");
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    const style = getComputedStyle(this.element);
    this.#frame(context, style);
    this.curves.forEach((values, head) => this.#line(context, values, head));
    if (this.#hovered) this.#point(context, this.#hovered, style.getPropertyValue("--strong"));
    setAttribute(canvas, "data-limit", this.#limit);
  }

  #frame(context, style) {
    context.lineWidth = 1;
    context.strokeStyle = style.getPropertyValue("--line");
    const bottom = Math.round(this.#y(0)) + 0.5;
    const top = Math.round(this.#y(this.#limit)) + 0.5;
    context.beginPath();
    for (const y of [bottom, top]) {
      context.moveTo(0, y);
      context.lineTo(this.width, y);
    }
    context.stroke();
    context.fillStyle = style.getPropertyValue("--soft");
    context.font = `10px ${style.getPropertyValue("--sans")}`;
    context.textAlign = "left";
    context.fillText(number(this.#limit), 1, top - 5);
    this.#nameSteps(context, bottom + 12);
    if (this.step === undefined) return;
    context.strokeStyle = style.getPropertyValue("--soft");
    context.setLineDash([2, 2]);
    context.beginPath();
    const x = Math.round(this.#x(this.step)) + 0.5;
    context.moveTo(x, PAD.top);
    context.lineTo(x, bottom);
    context.stroke();
    context.setLineDash([]);
  }

  // Axis labels: the first and the last step, and powers of ten between them where they fit.
  #nameSteps(context, y) {
    const last = this.steps.at(-1);
    const end = this.#x(last);
    context.textAlign = "right";
    context.fillText(last.toLocaleString("en"), end, y);
    context.textAlign = "left";
    context.fillText(this.steps[0].toLocaleString("en"), this.#x(this.steps[0]), y);
    context.textAlign = "center";
    let taken = this.#x(this.steps[0]);
    for (let step = 1; step < last; step *= 10) {
      const x = this.#x(step);
      if (step <= this.steps[0] || x < taken + APART || x > end - 2 * APART) continue;
      context.fillText(step.toLocaleString("en"), x, y);
      taken = x;
    }
  }

  #line(context, values, head) {
    const chosen = head === this.head || head === this.#hovered?.head;
    context.strokeStyle = categorical(head);
    context.globalAlpha = chosen || this.head === null ? 1 : 0.55;
    context.lineWidth = chosen ? 2.4 : 1.2;
    context.lineJoin = "round";
    context.beginPath();
    let isDown = false;
    values.forEach((value, i) => {
      if (value === null) isDown = false;
      else if (isDown) context.lineTo(this.#x(this.steps[i]), this.#y(value));
      else {
        context.moveTo(this.#x(this.steps[i]), this.#y(value));
        isDown = true;
      }
    });
    context.stroke();
    context.globalAlpha = 1;
  }

  #point(context, { head, index, value }, ring) {
    context.beginPath();
    context.arc(this.#x(this.steps[index]), this.#y(value), 3.5, 0, 2 * Math.PI);
    context.fillStyle = categorical(head);
    context.fill();
    context.strokeStyle = ring;
    context.lineWidth = 1;
    context.stroke();
  }
}
