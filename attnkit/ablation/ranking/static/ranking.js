// The table of `attnkit rank`: click a heading to sort by it, again to turn the order; click a
// mechanism for its curves, and for the commands that open its maps.

import { extent, padded } from "./axis.js";
import { element } from "./element.js";
import { followTheme } from "./host.js";
import { categorical } from "./palettes.js";
import { Plot } from "./plot.js";

const HEIGHT = 260;
const WIDE = 4; // from this factor on the axis is logarithmic

export function start(data) {
  followTheme();
  const page = new RankingPage(data);
  document.body.replaceChildren(page.element);
  page.draw();
}

class RankingPage {
  constructor(data) {
    this.data = data;
    this.column = null; // the order of the command: the base first
    this.sign = 1;
    this.chosen = null;
    this.table = element("table");
    this.details = element("section", { class: "details", "aria-live": "polite" });
    this.read = element("p", {}, "Point at a mechanism.");
    this.plot = data.recall && new Plot({ height: HEIGHT, hover: (hit) => this.#tell(hit) });
    this.element = element(
      "main",
      { class: "ranking" },
      element("h1", {}, data.title),
      element("div", { class: "scroll" }, this.table),
      this.details,
      this.plot && element("h2", {}, "Recall against the size of the cache"),
      this.plot && this.plot.element,
      this.plot && this.read,
      element("ul", {}, ...data.notes.map((note) => element("li", {}, note))),
      element("p", {}, "Command: ", element("code", {}, data.command)),
      element("ul", {}, ...data.made.map((place) => element("li", {}, place))),
    );
  }

  draw() {
    const { headings } = this.data;
    this.table.replaceChildren(
      element("thead", {}, element("tr", {}, ...headings.map((words, i) => this.#head(words, i)))),
      element("tbody", {}, ...this.#sorted().map((cells) => this.#row(cells))),
    );
    this.#drawRecall();
  }

  #head(words, column) {
    const isSorted = column === this.column;
    const order = this.sign > 0 ? "ascending" : "descending";
    const onclick = () => {
      this.sign = isSorted ? -this.sign : 1;
      this.column = column;
      this.draw();
      this.table.querySelectorAll("thead button")[column].focus();
    };
    return element(
      "th",
      { scope: "col", "aria-sort": isSorted ? order : "none" },
      element("button", { onclick }, words),
    );
  }

  #sorted() {
    const { column, sign } = this;
    if (column === null) return this.data.rows;
    return [...this.data.rows].sort((a, b) => compare(a[column].value, b[column].value, sign));
  }

  #row(cells) {
    const [first, ...others] = cells;
    const isChosen = this.chosen === first.value;
    const onclick = () => {
      this.chosen = isChosen ? null : first.value;
      this.draw();
      this.#drawDetails();
      this.table.querySelector(`tbody button[data-name="${CSS.escape(first.value)}"]`)?.focus();
    };
    const button = { onclick, "aria-expanded": String(isChosen), "data-name": first.value };
    return element(
      "tr",
      {},
      element("th", { scope: "row", title: first.hint }, element("button", button, first.text)),
      ...others.map(({ text, verdict, hint }) =>
        element("td", { class: verdict ?? "", title: hint || null }, text),
      ),
    );
  }

  // The curves of the chosen mechanism beside the base's, a plot for each task.
  #drawDetails() {
    const name = this.chosen;
    const about = this.data.details[name];
    if (!about) {
      this.details.replaceChildren();
      return;
    }
    const base = this.data.rows[0][0].value;
    const shown = [...new Set([base, name])];
    const plots = Object.keys(about.curves).map((task) => {
      const plot = new Plot({ height: 170, isCompact: true });
      const curves = shown
        .map((key, i) => ({ key, curve: this.data.details[key].curves[task], colour: categorical(i) }))
        .filter(({ curve }) => curve?.steps.length)
        .map(({ key, curve, colour }) => ({ key, x: curve.steps, mean: curve.loss, colour }));
      return { task, plot, curves };
    });
    const drawn = plots.filter(({ curves }) => curves.length);
    const commands = [
      ...about.maps.map((words) => ["maps: ", words]),
      [about.maps.length ? "the row again: " : "no runs here; to train them: ", `attnkit rank ${about.again}`],
    ];
    this.details.replaceChildren(
      element("h2", {}, name),
      element("p", {}, about.about),
      element(
        "p",
        { class: "key" },
        ...shown.map((key, i) =>
          element("span", { style: `color: ${categorical(i)}` }, `— ${key} `),
        ),
        "training loss, mean over the seeds",
      ),
      element(
        "div",
        { class: "curves" },
        ...drawn.map(({ task, plot }) => element("figure", {}, element("figcaption", {}, task), plot.element)),
      ),
      ...commands.map(([words, command]) => element("p", {}, words, element("code", {}, command))),
    );
    for (const { task, plot, curves } of drawn) {
      plot.update(
        {
          x: { ...padded(...extent(curves.map(({ x }) => x))), name: "step" },
          y: { ...padded(...extent(curves.map(({ mean }) => mean))), name: "loss" },
          curves,
        },
        `training loss of ${shown.join(" and ")} on ${task}`,
      );
    }
  }

  #drawRecall() {
    const { recall } = this.data;
    if (!recall || !recall.points.length) return;
    const [low, high] = extent([recall.points.map(({ bytes }) => bytes)]);
    const isWide = low > 0 && high / low > WIDE;
    this.plot.update(
      {
        x: { ...padded(low, high, isWide), name: recall.of + (isWide ? " (logarithmic)" : "") },
        y: { low: 0, high: 1.05, kind: "linear", name: "recall" },
        points: recall.points.map(({ name, bytes, accuracy, low, high }, i) => ({
          ...{ key: name, name, x: bytes, y: accuracy, low, high, colour: categorical(i) },
        })),
      },
      `recall against ${recall.of}: ${recall.points.length} mechanisms; arrow keys move`,
    );
  }

  #tell(hit) {
    const point = hit && this.data.recall.points.find(({ name }) => name === hit.key);
    this.read.textContent = point
      ? `${point.name}: ${point.accuracy.toFixed(3)} with ${point.bytes.toLocaleString("en")} bytes`
      : "Point at a mechanism.";
  }
}

// Cells without a number come last in either order.
function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
}
