// Clinic: layers by heads, coloured by a score of the head clinic; its curve over training.

import { brief, extent } from "./axis.js";
import { Score, inCell } from "./clinic_scores.js";
import { element, fill, setAttribute, setText } from "./element.js";
import { categorical, LEVELS } from "./palettes.js";
import { Plot } from "./plot.js";
import { roomBelow } from "./room.js";
import { number, readable, stepName } from "./tokens.js";

const SMALLEST = 180; // height of the curves
const LARGEST = 420;
const MARGIN = 92; // below the curves: the scores of the chosen head

export class ClinicView {
  #rows = []; // [layer][head] -> button
  #built = null;
  #ramp = null;

  constructor(app) {
    this.app = app;
    this.menu = element("select", {
      "aria-label": "Score",
      onchange: () => app.state.set({ score: this.menu.value }),
    });
    this.meaning = element("span", { class: "hint" });
    this.bar = element("canvas", { width: LEVELS + 1, height: 1 });
    this.labels = [0, 1].map(() => element("span"));
    const legend = [this.labels[0], this.bar, this.labels[1]];
    this.grid = element("div", {
      class: "heads-grid",
      role: "grid",
      onkeydown: (event) => this.#move(event),
    });
    this.marks = element("p", { class: "formed" });
    this.title = element("h3");
    this.open = element(
      "button",
      { class: "quiet", title: "Open the map of this head in Matrix", onclick: () => this.#open() },
      "its map →",
    );
    this.readout = element("p", { class: "scores", "aria-live": "polite" });
    this.plot = new Plot({
      height: SMALLEST,
      choose: ({ key, x }) => {
        app.state.set(this.model.clinic.heads[key].place);
        this.#go(x);
      },
      hover: (hit) => this.#describe(hit),
    });
    this.element = element(
      "div",
      { class: "clinic" },
      element(
        "div",
        {},
        element(
          "div",
          { class: "caption" },
          this.menu,
          element("div", { class: "legend", "aria-hidden": "true" }, ...legend),
        ),
        this.meaning,
        this.grid,
        this.marks,
      ),
      element(
        "div",
        {},
        element("div", { class: "caption" }, this.title, this.open),
        this.plot.element,
        this.readout,
      ),
    );
  }

  update(model) {
    this.model = model;
    this.#listScores();
    this.#build();
    this.#select();
    const marks = model.clinic.formed.map(({ text }) => text);
    this.marks.replaceChildren(...marks.map((text) => element("span", {}, readable(text))));
  }

  // The largest value over training; the stage shares it between panels.
  peaks() {
    const values = this.model.clinic.heads.flatMap(({ scores }) => scores[this.#name] ?? []);
    return { [`clinic ${this.#name}`]: Math.max(0, ...values.map(Math.abs)) };
  }

  align({ peaks }) {
    this.score = new Score(this.#name, peaks[`clinic ${this.#name}`]);
    const room = roomBelow(this.plot.element) - MARGIN;
    this.plot.height = Math.min(LARGEST, Math.max(SMALLEST, room));
    this.#paint();
    this.#draw();
    this.#describe(null);
  }

  table() {
    const { heads, steps, names } = this.model.clinic;
    const rows = steps.flatMap((step, i) =>
      heads.map(({ place, words, scores }) => [
        step,
        place.layer,
        place.head,
        words[i],
        ...names.map((name) => scores[name]?.[i] ?? ""),
      ]),
    );
    return [["step", "layer", "head", "is for", ...names], ...rows];
  }

  get #name() {
    return this.model.score;
  }

  get #chosen() {
    const { layer, head, clinic } = this.model;
    return clinic.rows[layer][head];
  }

  #listScores() {
    const { names } = this.model.clinic;
    fill(this.menu, names.map((name) => [name, new Score(name).title]));
    this.menu.value = this.#name;
    setText(this.meaning, new Score(this.#name).meaning);
  }

  #build() {
    const { clinic } = this.model;
    if (clinic.shape === this.#built) return;
    this.#built = clinic.shape;
    const most = Math.max(...clinic.rows.map((row) => row.length));
    this.#rows = clinic.rows.map((row) => row.map(({ place }) => this.#button(place)));
    const numbers = Array.from({ length: most }, (_, j) =>
      element("span", { class: "column" }, `h${j}`),
    );
    setAttribute(this.grid, "aria-label", `heads of ${clinic.rows.length} layers`);
    this.grid.style.setProperty("--columns", most);
    this.grid.replaceChildren(
      element("div", { class: "row", "aria-hidden": "true" }, element("span"), ...numbers),
      ...this.#rows.map((row, layer) =>
        element(
          "div",
          { class: "row", role: "row" },
          element("span", { class: "layer" }, stroke(layer), `L${layer}`),
          ...row,
        ),
      ),
    );
  }

  // A click chooses; a click on the chosen head opens its map.
  #button({ layer, head }) {
    const choose = () => {
      if (this.model.layer === layer && this.model.head === head) this.#open();
      else this.app.state.set({ layer, head });
    };
    return element("button", { class: "head", role: "gridcell", onclick: choose });
  }

  #open() {
    const { layer, head } = this.model;
    this.app.state.set({ view: "matrix", layer, head });
  }

  #select() {
    const { layer, head } = this.model;
    this.#rows.forEach((row, i) =>
      row.forEach((button, j) => {
        const chosen = i === layer && j === head;
        setAttribute(button, "aria-selected", chosen);
        button.tabIndex = chosen ? 0 : -1;
        button.title = chosen ? "Click again for its map" : "";
      }),
    );
  }

  #paint() {
    const { clinic, values, index } = this.model;
    const ramp = this.score.ramp(values.colours);
    clinic.rows.forEach((row, i) =>
      row.forEach(({ scores, words }, j) => {
        const value = scores[this.#name]?.[index] ?? null;
        const button = this.#rows[i][j];
        const level = value === null ? null : this.score.level(value);
        button.style.background = value === null ? "" : ramp.css(level);
        button.style.color = value === null ? "" : ramp.ink(level);
        setText(button, value === null ? "–" : inCell(value));
        const text = value === null ? "not measured" : number(value);
        const label = `layer ${i}, head ${j}: ${this.score.title} ${text}; ${words[index]}`;
        setAttribute(button, "aria-label", label);
      }),
    );
    this.score.labels().forEach((text, i) => setText(this.labels[i], text));
    if (this.#ramp === ramp) return;
    this.#ramp = ramp;
    const context = this.bar.getContext("2d");
    for (let level = 0; level <= LEVELS; level++) {
      context.fillStyle = ramp.css(level);
      context.fillRect(level, 0, 1, 1);
    }
  }

  // One curve per head; the chosen one stands out.
  #draw() {
    const { clinic, step, layer } = this.model;
    const { steps, heads } = clinic;
    const curves = heads.flatMap(({ place, scores }, key) => {
      const mean = scores[this.#name];
      return mean ? [{ key, x: steps, mean, colour: categorical(place.layer), isThin: true }] : [];
    });
    const [low, high] = extent(curves.map(({ mean }) => mean)) ?? [0, 1];
    const limit = this.score.limit;
    const strong = heads.indexOf(this.#chosen);
    const kind = evenly(steps) ? "linear" : "log1p";
    const drawing = {
      x: { low: steps[0], high: steps.at(-1), kind, name: "step" },
      y: { low: Math.min(0, low), high: high > 0 ? limit : 0, name: this.score.title },
      curves: curves.sort((a, b) => (a.key === strong) - (b.key === strong)),
      strong,
      at: step,
      marks: clinic.formed
        .filter(({ score }) => score === this.#name)
        .map((one) => ({ x: one.step, name: `formed by ${brief(one.step)}` })),
    };
    const label = `${this.score.title} of the heads over training, layer ${layer} chosen`;
    this.plot.update(drawing, label);
  }

  // All scores of the head and step under the pointer, or of the chosen ones.
  #describe(hit) {
    const { clinic, index, step } = this.model;
    const one = hit ? clinic.heads[hit.key] : this.#chosen;
    const at = hit ? hit.index : index;
    const { place, words, scores } = one;
    setText(this.title, `L${place.layer} · head ${place.head} · ${words[at]}`);
    const numbers = clinic.names.flatMap((name) => {
      const value = scores[name]?.[at] ?? null;
      if (value === null) return [];
      const text = `${new Score(name).title.toLowerCase()} ${number(value)}`;
      return [element(name === this.#name ? "b" : "span", {}, text)];
    });
    this.readout.replaceChildren(`${stepName(hit ? hit.x : step)}: `, ...numbers);
  }

  #go(step) {
    const { steps } = this.app.selection;
    if (steps.includes(step)) this.app.goTo(steps.indexOf(step));
  }

  #move(event) {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = by[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const within = (at, count) => Math.max(0, Math.min(at, count - 1));
    const i = this.#rows.findIndex((row) => row.includes(event.target));
    if (i < 0) return;
    const layer = within(i + step[0], this.#rows.length);
    const row = this.#rows[layer];
    const head = within(this.#rows[i].indexOf(event.target) + step[1], row.length);
    row[head].focus();
    this.app.state.set({ layer, head });
    this.app.announcer.say(row[head].getAttribute("aria-label"));
  }
}

// The colour of the curves of a layer.
function stroke(layer) {
  const mark = element("i");
  mark.style.background = categorical(layer);
  return mark;
}

// True if steps are about evenly spaced.
function evenly(steps) {
  if (steps.length < 3) return true;
  const gaps = steps.slice(1).map((step, i) => step - steps[i]);
  return Math.max(...gaps) <= 4 * Math.min(...gaps.slice(0, -1));
}
