// One map, enlarged: tokens on both axes, masked cells dotted, the pinned query outlined.
//
// Two permanent canvases: the map, and an overlay that follows the pointer.

import { Axes } from "./axes.js";
import { element, setAttribute, setText } from "./element.js";
import { Legend } from "./legend.js";
import { paintMap } from "./paint.js";
import { Ramp } from "./palettes.js";
import { fit, inks } from "./pen.js";
import { Readout } from "./readout.js";
import { reveal } from "./scrolling.js";
import { roomBelow } from "./room.js";
import { effectiveScale, isDiverging, levels } from "./scales.js";
import { number, quoted, visible } from "./tokens.js";
import { PlayButton, stripImage, STRIP } from "./sound.js";
import { drawLabels, drawMap, drawMarks, drawStrip } from "./zoom_drawing.js";

const MAX_PIXELS = 2048;
const MARGIN = 24; // below a map
let count = 0;

export class Zoom {
  #model = null;
  #axes = null;
  #room = 0;
  #moved = false;
  #image = document.createElement("canvas");

  constructor(app) {
    this.app = app;
    const id = `cell${count++}`;
    this.map = element("canvas", { class: "map" });
    this.marks = element("canvas", { class: "marks" });
    this.cell = element("span", { role: "gridcell", id });
    this.row = element("div", { class: "unseen", role: "row" }, this.cell);
    this.grid = element(
      "div",
      { class: "grid", role: "grid", tabindex: 0, "aria-activedescendant": id },
      this.map,
      this.marks,
      this.row,
    );
    this.frame = element("div", { class: "frame", "data-scroll": "zoom" }, this.grid);
    this.title = element("h3");
    this.legend = new Legend();
    this.readout = new Readout();
    this.play = new PlayButton();
    this.element = element(
      "div",
      { class: "zoom" },
      element("div", { class: "caption" }, this.title, this.legend.element, this.play.element),
      this.readout.element,
      this.frame,
    );
    this.grid.addEventListener("pointermove", (event) => app.hover.set(this.#at(event)));
    this.grid.addEventListener("pointerleave", () => app.hover.set(null));
    this.grid.addEventListener("click", (event) => this.#pin(this.#at(event)));
    this.grid.addEventListener("keydown", (event) => this.#move(event));
    app.hover.listen(() => this.#model && this.element.isConnected && this.#mark());
    new ResizeObserver(() => this.#model && this.#draw()).observe(this.frame);
  }

  update(model) {
    this.#moved ||= model.query !== this.#model?.query || model.key !== this.#model?.key;
    this.#model = model;
    setText(this.title, `${visible(model.map.name)} · ${model.map.headName(model.head)}`);
    this.legend.update(model.map, model.values);
    this.play.update(model.record.sound);
    this.#draw();
  }

  // Redraws if the height above has changed, and scrolls a newly chosen cell into view.
  fit() {
    if (!this.#model) return;
    if (roomBelow(this.frame) !== this.#room) this.#draw();
    if (this.#moved && this.#model.query !== null) reveal(this.row);
    this.#moved = false;
  }

  #draw() {
    const { record, map, head, values } = this.#model;
    const width = this.frame.clientWidth;
    if (!width) return;
    this.#room = roomBelow(this.frame);
    const context = this.map.getContext("2d");
    const room = { width, height: this.#room - MARGIN, zoom: values.zoom };
    if (record.sound) room.strip = STRIP;
    this.#axes = new Axes(context, record.queries, record.keys, room);
    const scale = effectiveScale(map, values.scale);
    const diverging = isDiverging(map, scale);
    const ramp = Ramp.of(diverging ? "diverging" : values.colours);
    const shades = levels(map, head, scale);
    const side = this.#axes.cell * Math.max(map.queries, map.keys) * devicePixelRatio;
    const pixels = Math.min(MAX_PIXELS, Math.max(64, Math.floor(side)));
    paintMap(this.#image, shades, map.queries, map.keys, ramp, diverging, pixels);
    const ink = inks(this.element);
    for (const canvas of [this.map, this.marks]) fit(canvas, this.#axes);
    setAttribute(this.grid, "style", `width:${this.#axes.width}px;height:${this.#axes.height}px`);
    drawMap(context, this.#axes, this.#image, map, head, ink);
    drawLabels(context, this.#axes, ink);
    if (record.sound) drawStrip(context, this.#axes, stripImage(record.sound));
    setAttribute(this.grid, "aria-rowcount", map.queries);
    setAttribute(this.grid, "aria-colcount", map.keys);
    setAttribute(
      this.grid,
      "aria-label",
      `attention map, layer ${visible(map.name)}, ${map.headName(head)}`,
    );
    this.#mark();
  }

  // Outlines the pinned row and cell, and those under the pointer, and shows their values.
  #mark() {
    if (!this.#axes) return;
    const { record, map, head, query, key } = this.#model;
    const pointer = this.app.hover.value;
    const within = (index, size) => (index != null && index < size ? index : null);
    const hovered = {
      query: within(pointer?.query, map.queries),
      key: within(pointer?.key, map.keys),
    };
    const context = this.marks.getContext("2d");
    const axes = this.#axes;
    context.clearRect(0, 0, axes.width, axes.height);
    const ink = inks(this.element);
    drawMarks(context, axes, { query, key }, { ...ink, line: ink.strong }, 2);
    drawMarks(context, axes, hovered, { ...ink, line: ink.accent }, 1);
    const target = hovered.query !== null || hovered.key !== null ? hovered : { query, key };
    this.readout.update(this.#model, target);
    this.row.style.left = `${axes.left + ((key ?? 0) + 0.5) * axes.cell}px`;
    this.row.style.top = `${axes.top + ((query ?? 0) + 0.5) * axes.cell}px`;
    setAttribute(this.cell, "aria-rowindex", (query ?? 0) + 1);
    setAttribute(this.cell, "aria-colindex", (key ?? 0) + 1);
    setText(this.cell, cellText(record, map, head, query ?? 0, key ?? 0));
  }

  #at(event) {
    if (!this.#axes) return null;
    const box = this.grid.getBoundingClientRect();
    const { queries, keys } = this.#model.map;
    return this.#axes.at(event.clientX - box.left, event.clientY - box.top, queries, keys);
  }

  #pin(target) {
    if (!target) return;
    const { query, key } = this.#model;
    const same = target.query === query && target.key === key;
    this.app.state.set(same ? { query: null, key: null } : target);
  }

  #move(event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    event.preventDefault();
    event.stopPropagation();
    const { record, map, head } = this.#model;
    const moved = (now, by, size) => (now === null ? 0 : Math.max(0, Math.min(now + by, size - 1)));
    const query = moved(this.#model.query, step[0], map.queries);
    const key = moved(this.#model.key, step[1], map.keys);
    this.app.state.set({ query, key });
    this.app.announcer.say(cellText(record, map, head, query, key));
  }
}

function cellText(record, map, head, query, key) {
  const pair = `${quoted(record.queries[query])} attends to ${quoted(record.keys[key])}`;
  return map.isAllowed(head, query, key)
    ? `${pair}: ${number(map.weight(head, query, key))}`
    : `${pair}: masked`;
}
