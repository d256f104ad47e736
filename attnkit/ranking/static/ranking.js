// The table of `attnkit rank`: click a heading to sort by it, again to turn the order.

import { element } from "./element.js";
import { followTheme } from "./host.js";

export function start(data) {
  followTheme();
  document.body.replaceChildren(new RankingPage(data).element);
}

class RankingPage {
  constructor(data) {
    this.data = data;
    this.column = null; // the order of the command: the base first
    this.sign = 1;
    this.table = element("table");
    this.element = element(
      "main",
      { class: "ranking" },
      element("h1", {}, data.title),
      element("div", { class: "scroll" }, this.table),
      element("ul", {}, ...data.notes.map((note) => element("li", {}, note))),
      element("p", {}, "Command: ", element("code", {}, data.command)),
      element("ul", {}, ...data.made.map((place) => element("li", {}, place))),
    );
    this.#draw();
  }

  #draw() {
    const { headings } = this.data;
    this.table.replaceChildren(
      element("thead", {}, element("tr", {}, ...headings.map((words, i) => this.#head(words, i)))),
      element("tbody", {}, ...this.#sorted().map((cells) => row(cells))),
    );
  }

  #head(words, column) {
    const isSorted = column === this.column;
    const order = this.sign > 0 ? "ascending" : "descending";
    const onclick = () => {
      this.sign = isSorted ? -this.sign : 1;
      this.column = column;
      this.#draw();
      this.table.querySelectorAll("th button")[column].focus();
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
}

// Cells without a number come last in either order.
function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
}

function row(cells) {
  const [first, ...others] = cells;
  return element(
    "tr",
    {},
    element("th", { scope: "row", title: first.hint }, first.text),
    ...others.map(({ text, verdict, hint }) =>
      element("td", { class: verdict ?? "", title: hint || null }, text),
    ),
  );
}
