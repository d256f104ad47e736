// Curves with bands, and points with intervals, on two axes.
//
// What is drawn:
//   x, y     {low, high, kind, name}
//   curves   [{key, x, mean, low, high, colour, dash, isThin}], `low` and `high` may be null
//   points   [{key, name, x, y, low, high, colour}]
//   strong   the key that stands out; null: none
//   at       a value of x that is marked; undefined: none
//   marks    [{x, name}], values of x that are marked and named; undefined: none

import { Axis, brief } from "./axis.js";
import { element, setAttribute } from "./element.js";
import { CanvasPen, SvgPen, inks } from "./pen.js";

const ROOMY = { left: 62, right: 14, top: 12, bottom: 42 };
const COMPACT = { left: 4, right: 6, top: 16, bottom: 16 };
const APART = 34; // least distance between the names on a compact axis
const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3]]; // beyond eight colours
const MAX_LETTERS = 28;
const NAME_HEIGHT = 13; // pixels

// The dash of the curve with an index.
export function dashOf(index) {
  return DASHES[Math.floor(index / 8) % DASHES.length];
}

export class Plot {
  hit = null; // what is pointed at: {key, index, x}
  #drawing = null;
  #width = 0; // of the element when it was last drawn
  #place = 0;

  // `hover` is called with the place under the pointer, {key, index, x} or null, and `choose` with
  // a clicked place; `isCompact`: a small multiple.
  constructor({ height, isCompact = false, hover = () => {}, choose = null }) {
    this.height = height;
    this.isCompact = isCompact;
    this.pad = isCompact ? COMPACT : ROOMY;
    this.canvas = element("canvas", { role: "img" });
    this.element = element("div", { class: isCompact ? "chart" : "plot" }, this.canvas);
    this.hover = hover;
    this.canvas.addEventListener("pointermove", (event) => this.#point(this.#at(event)));
    this.canvas.addEventListener("pointerleave", () => this.#point(null));
    if (choose) {
      this.canvas.addEventListener("click", (event) => {
        const hit = this.#at(event);
        if (hit) choose(hit);
      });
    }
    if (!isCompact) {
      this.canvas.tabIndex = 0;
      this.canvas.addEventListener("keydown", (event) => this.#move(event));
      this.canvas.addEventListener("blur", () => this.#point(null));
    }
    new ResizeObserver(() => {
      if (this.element.clientWidth !== this.#width) this.draw();
    }).observe(this.element);
  }

  // `label` describes the drawing to screen readers.
  update(drawing, label) {
    this.#drawing = drawing;
    setAttribute(this.canvas, "aria-label", label);
    this.hit = this.hit && this.#hitAgain(this.hit);
    this.draw();
  }

  draw() {
    const width = this.element.clientWidth;
    this.#width = width;
    if (!width || !this.#drawing) return;
    const size = { width, height: this.height };
    const ink = inks(this.element);
    this.#layOut(size);
    this.#paint(new CanvasPen(this.canvas, size), ink, true);
  }

  // The drawing as a file, without the pointer.
  svg() {
    const size = { width: this.element.clientWidth || 800, height: this.height };
    const ink = inks(this.element);
    const pen = new SvgPen(size, ink.paper);
    this.#layOut(size);
    this.#paint(pen, ink, false);
    return String(pen);
  }

  // The same hit in a new drawing; null if it is gone.
  #hitAgain({ key, index }) {
    const { curves = [], points = [] } = this.#drawing;
    const found = [...curves, ...points].find((one) => one.key === key);
    const x = Array.isArray(found?.x) ? found.x[index] : found?.x;
    return x === undefined ? null : { key, index, x };
  }

  #layOut({ width, height }) {
    const { left, right, top, bottom } = this.pad;
    this.x = new Axis(this.#drawing.x, left, width - right);
    this.y = new Axis(this.#drawing.y, height - bottom, top);
    this.size = { width, height };
  }

  #paint(pen, ink, isLive) {
    const { curves = [], points = [], strong = null } = this.#drawing;
    if (this.isCompact) this.#smallFrame(pen, ink);
    else this.#frame(pen, ink);
    const standsOut = (one) => one.key === strong || (isLive && one.key === this.hit?.key);
    for (const curve of curves) if (curve.low) this.#band(pen, curve);
    for (const curve of curves) this.#curve(pen, curve, standsOut(curve), strong !== null);
    this.#points(pen, points, ink, standsOut);
    if (isLive && this.hit) this.#mark(pen, ink);
  }

  #frame(pen, ink) {
    const { width, height } = this.size;
    const { left, right, bottom, top } = this.pad;
    for (const value of this.y.ticks(6)) {
      const y = Math.round(this.y.at(value)) + 0.5;
      pen.line([[left, y], [width - right, y]], ink.line);
      pen.text(brief(value), left - 8, y + 4, ink.soft, { align: "right" });
    }
    for (const value of this.x.ticks(Math.max(2, Math.round(width / 110)))) {
      pen.text(brief(value), this.x.at(value), height - bottom + 17, ink.soft, { align: "center" });
    }
    const { x, y, at, marks = [] } = this.#drawing;
    const upright = (value, colour) => {
      const place = Math.round(this.x.at(value)) + 0.5;
      pen.line([[place, top], [place, height - bottom]], colour, { dash: [2, 2] });
      return place;
    };
    if (at !== undefined) upright(at, ink.soft);
    for (const mark of marks) {
      const place = upright(mark.x, ink.accent);
      const align = place > width / 2 ? "right" : "left";
      pen.text(mark.name, place + (align === "left" ? 5 : -5), top + 10, ink.accent, { align });
    }
    pen.text(x.name, (left + width - right) / 2, height - 6, ink.soft, { align: "center" });
    const middle = (top + height - bottom) / 2;
    pen.text(y.name, 13, middle, ink.soft, { align: "center", turned: true });
  }

  #smallFrame(pen, ink) {
    const { width } = this.size;
    const [bottom, top] = [this.y.at(0), this.y.at(this.y.high)].map((y) => Math.round(y) + 0.5);
    for (const y of [bottom, top]) pen.line([[0, y], [width, y]], ink.line);
    pen.text(brief(this.y.high), 1, top - 5, ink.soft, { size: 10 });
    this.#nameSteps(pen, ink.soft, bottom + 12);
    const { at } = this.#drawing;
    if (at === undefined) return;
    const x = Math.round(this.x.at(at)) + 0.5;
    pen.line([[x, this.pad.top], [x, bottom]], ink.soft, { dash: [2, 2] });
  }

  // The first and the last step, and powers of ten between them where they fit.
  #nameSteps(pen, colour, y) {
    const { low, high } = this.x;
    const name = (step, align) =>
      pen.text(step.toLocaleString("en"), this.x.at(step), y, colour, { align, size: 10 });
    name(high, "right");
    name(low, "left");
    let taken = this.x.at(low);
    for (let step = 1; step < high; step *= 10) {
      const x = this.x.at(step);
      if (step <= low || x < taken + APART || x > this.x.at(high) - 2 * APART) continue;
      name(step, "center");
      taken = x;
    }
  }

  #line(curve, values) {
    return values.map((value, i) =>
      value === null || !Number.isFinite(value) ? null : [this.x.at(curve.x[i]), this.y.at(value)],
    );
  }

  #band(pen, curve) {
    const high = this.#line(curve, curve.high).filter(Boolean);
    const low = this.#line(curve, curve.low).filter(Boolean).reverse();
    if (high.length > 1) pen.area([...high, ...low], curve.colour, 0.18);
  }

  #curve(pen, curve, standsOut, isCrowded) {
    const points = this.#line(curve, curve.mean);
    const plain = this.isCompact || curve.isThin ? 1.2 : 2;
    const drawn = points.filter(Boolean);
    if (drawn.length === 1) {
      pen.dot(drawn[0][0], drawn[0][1], standsOut ? 4 : 3, curve.colour);
      return;
    }
    pen.line(points, curve.colour, {
      width: standsOut ? plain + 1.2 : plain,
      dash: curve.dash ?? [],
      opacity: standsOut ? 1 : isCrowded ? 0.55 : curve.isThin ? 0.6 : 1,
    });
  }

  #points(pen, points, ink, standsOut) {
    const places = points.map((point) => [this.x.at(point.x), this.y.at(point.y)]);
    const taken = places.map(([x, y]) => ({ edge: x - 6, size: 12, height: y + 4 }));
    for (const [i, point] of points.entries()) {
      const [x, y] = places[i];
      if (point.low != null && point.high != null) {
        const ends = [point.low, point.high].map((value) => this.y.at(value));
        pen.line([[x, ends[0]], [x, ends[1]]], point.colour, { width: 1.5 });
        for (const end of ends) pen.line([[x - 5, end], [x + 5, end]], point.colour, { width: 1.5 });
      }
      pen.dot(x, y, standsOut(point) ? 7 : 5, point.colour, standsOut(point) ? ink.strong : null);
      this.#name(pen, point, x, y, ink.strong, taken);
    }
  }

  // A name beside its point, or a line lower or higher. Without such a place it is left out, since
  // farther away it would name another point: the table has it, and pointing tells it.
  #name(pen, point, x, y, colour, taken) {
    const letters = [...point.name];
    const isLong = letters.length > MAX_LETTERS;
    const words = isLong ? `${letters.slice(0, MAX_LETTERS - 1).join("")}…` : point.name;
    const size = pen.width(words);
    const isFree = ({ edge, height }) =>
      edge > this.pad.left &&
      edge + size < this.size.width &&
      height > this.pad.top &&
      height <= this.y.from &&
      !taken.some(
        (one) =>
          Math.abs(one.height - height) < NAME_HEIGHT &&
          edge < one.edge + one.size &&
          one.edge < edge + size,
      );
    const place = [0, NAME_HEIGHT, -NAME_HEIGHT]
      .flatMap((shift) => [x + 11, x - 11 - size].map((edge) => ({ edge, height: y + 4 + shift })))
      .find(isFree);
    if (!place) return;
    taken.push({ ...place, size });
    pen.text(words, place.edge, place.height, colour);
  }

  #mark(pen, ink) {
    const { curves = [] } = this.#drawing;
    if (!curves.length) return;
    const x = Math.round(this.x.at(this.hit.x)) + 0.5;
    if (!this.isCompact) {
      pen.line([[x, this.pad.top], [x, this.y.from]], ink.soft, { dash: [3, 3] });
    }
    const curve = curves.find((one) => one.key === this.hit.key);
    const value = curve?.mean[this.hit.index];
    if (value == null) return;
    pen.dot(this.x.at(curve.x[this.hit.index]), this.y.at(value), 3.5, curve.colour, ink.strong);
  }

  #point(hit) {
    if (hit?.key === this.hit?.key && hit?.index === this.hit?.index) return;
    this.hit = hit;
    this.draw();
    this.hover(hit);
  }

  // The place nearest to the pointer: {key, index, x}.
  #at({ offsetX, offsetY }) {
    if (!this.x) return null;
    const { curves = [], points = [] } = this.#drawing;
    let best = null;
    const offer = (distance, hit) => {
      if (!best || distance < best.distance) best = { distance, hit };
    };
    for (const curve of curves) {
      const index = this.#nearest(curve, offsetX);
      if (curve.mean[index] == null) continue;
      const [dx, dy] = [this.x.at(curve.x[index]) - offsetX, this.y.at(curve.mean[index]) - offsetY];
      offer(this.isCompact ? Math.abs(dy) : Math.hypot(dx, dy), {
        key: curve.key,
        index,
        x: curve.x[index],
      });
    }
    for (const { key, x, y } of points) {
      offer(Math.hypot(this.x.at(x) - offsetX, this.y.at(y) - offsetY), { key, index: 0, x });
    }
    return best?.hit ?? null;
  }

  #nearest(curve, pixel) {
    let [low, high] = [0, curve.x.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (this.x.at(curve.x[middle]) < pixel) low = middle;
      else high = middle;
    }
    const distance = (i) => Math.abs(this.x.at(curve.x[i]) - pixel);
    return distance(low) <= distance(high) ? low : high;
  }

  // Arrow keys: along a curve, and from curve to curve; or from point to point.
  #move(event) {
    const { curves = [], points = [] } = this.#drawing;
    const along = { ArrowRight: 1, ArrowLeft: -1, PageUp: 10, PageDown: -10 }[event.key];
    const across = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if ((!along && !across) || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = curves.length ? curves : points;
    if (!all.length) return;
    event.preventDefault();
    event.stopPropagation();
    const now = all.findIndex((one) => one.key === this.hit?.key);
    const clamp = (i, size) => Math.max(0, Math.min(i, size - 1));
    if (!curves.length) {
      const next = all[now < 0 ? 0 : clamp(now + (along ?? across), all.length)];
      this.#point({ key: next.key, index: 0, x: next.x });
      return;
    }
    const curve = all[now < 0 ? 0 : clamp(now + (across ?? 0), all.length)];
    const from = this.hit ? this.#nearest(curve, this.x.at(this.hit.x)) : curve.x.length - 1;
    this.#place = clamp(from + (along ?? 0), curve.x.length);
    this.#point({ key: curve.key, index: this.#place, x: curve.x[this.#place] });
  }
}
