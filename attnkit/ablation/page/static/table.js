// The table of a study: one row per variant, also for variants without a finished run.

import { element } from "./element.js";
import { categorical } from "./palettes.js";
import { PAGE_SIZE } from "./variants.js";

const MOST_SQUARES = 16; // runs of a variant that are drawn one by one
const STATES = ["finished", "running", "failed", "halved", "stopped", "queued"];

export class Table {
  #drawn = "";

  constructor(app) {
    this.app = app;
    this.table = element("table");
    this.pager = element("nav", { class: "pager", "aria-label": "Pages of the table" });
    this.element = element(
      "section",
      { class: "table", "aria-label": "Variants" },
      element("div", { class: "scroll" }, this.table),
      this.pager,
    );
  }

  update(values, view, shown) {
    const { theme } = document.documentElement.dataset;
    const { sort, off } = values;
    const names = shown.page.map((one) => one.name);
    const { table, variants, complete } = view;
    const drawn = JSON.stringify([theme, sort, off, names, table, variants, complete]);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    const focused = document.activeElement?.dataset?.key;
    const columns = table?.columns ?? ["variant"];
    this.verdict = columns.indexOf("verdict");
    this.table.replaceChildren(
      element("thead", {}, this.#heads(columns, sort)),
      element("tbody", {}, ...shown.page.map((one) => this.#row(one, columns, off, view))),
    );
    this.#page(shown);
    if (!focused) return;
    const all = [...this.element.querySelectorAll("[data-key]")];
    all.find((one) => one.dataset.key === focused)?.focus();
  }

  // Highlights the row of a variant that is pointed at in a plot; null: none.
  mark(place) {
    for (const row of this.table.tBodies[0]?.rows ?? [])
      row.classList.toggle("pointed", Number(row.dataset.place) === place);
  }

  #heads(columns, sort) {
    const { state } = this.app;
    const heads = columns.map((name, i) => {
      const up = sort === String(i);
      const down = sort === `-${i}`;
      const next = up ? `-${i}` : String(i);
      return element(
        "th",
        { scope: "col", "aria-sort": up ? "ascending" : down ? "descending" : "none", class: this.#align(i) },
        element(
          "button",
          { "data-key": `sort ${i}`, onclick: () => state.set({ sort: next, page: 0 }) },
          name,
        ),
      );
    });
    return element("tr", {}, ...heads, element("th", { scope: "col", class: "left" }, "runs"));
  }

  #align(column) {
    return column === 0 || column === this.verdict ? "left" : "";
  }

  #row(one, columns, off, view) {
    const words = one.row?.words ?? [];
    const cells = columns.slice(1).map((_, i) => {
      const text = words[i + 1] ?? "";
      const isSoFar = i + 1 === this.verdict && one.row?.verdict && !view.complete;
      return element("td", { class: this.#align(i + 1) }, isSoFar ? `${text} so far` : text);
    });
    const kind = (one.row?.verdict ?? "none").replaceAll(" ", "-");
    return element(
      "tr",
      {
        class: kind,
        "data-place": one.place,
        onpointerenter: () => this.app.curvesPlot.stress(one.name),
        onpointerleave: () => this.app.curvesPlot.stress(null),
      },
      this.#head(one, off),
      ...cells,
      this.#runs(one),
    );
  }

  #head(one, off) {
    const { app } = this;
    const isDrawn = !off.includes(one.name);
    const box = element("input", {
      type: "checkbox",
      "data-key": `draw ${one.name}`,
      onchange: () => app.state.set({ off: toggled(off, one.name) }),
    });
    box.checked = isDrawn;
    const dot = element("span", { class: "dot" });
    dot.style.background = isDrawn ? categorical(one.place) : "none";
    dot.style.borderColor = categorical(one.place);
    const words = one.row?.words[0] ?? one.label;
    const hint = "Click: show or hide. Shift-click or double-click: show only this one.";
    return element(
      "th",
      { scope: "row" },
      element(
        "label",
        {
          title: `${one.label}\n${hint}`,
          onclick: (event) => {
            if (!event.shiftKey && event.detail !== 2) return;
            event.preventDefault();
            this.#only(one);
          },
        },
        box,
        dot,
        element("span", { class: "name" }, words),
      ),
    );
  }

  // The state of the runs, and a button that opens their maps.
  #runs(one) {
    const isOpen = this.app.source.isLive && one.runs.some((run) => run.run);
    const maps = element(
      "button",
      {
        class: "quiet",
        "data-key": `maps ${one.name}`,
        "data-noexport": "true",
        "aria-label": `maps: ${one.label}`,
        title: "Its attention maps minus those of the base",
        onclick: () => this.#maps(one),
      },
      "maps",
    );
    return element("td", { class: "left" }, squares(one.runs), isOpen ? maps : null);
  }

  #only(one) {
    const others = this.app.view.variants.map(({ name }) => name).filter((name) => name !== one.name);
    this.app.state.set({ off: others });
  }

  // The maps of a variant and of the base; their difference is one more click there.
  #maps(one) {
    const { all } = this.app.toolbar.shown;
    const base = all.find(({ row }) => row?.isBase);
    const pair = base && base.name !== one.name ? [base, one] : [one];
    this.app.toolbar.openMaps(pair, pair.length > 1 ? "difference" : "matrix");
  }

  #page({ listed, number, pages }) {
    const { state } = this.app;
    this.pager.hidden = pages === 1 && listed.length > 0;
    const turn = (label, page) =>
      element(
        "button",
        {
          class: "quiet",
          "data-key": label,
          disabled: page < 0 || page >= pages,
          onclick: () => state.set({ page }),
        },
        label,
      );
    const first = number * PAGE_SIZE;
    const range = `${first + 1} to ${Math.min(listed.length, first + PAGE_SIZE)} of ${listed.length}`;
    this.pager.replaceChildren(
      ...(listed.length
        ? [turn("← previous", number - 1), range, turn("next →", number + 1)]
        : ["No variant matches."]),
    );
  }
}

function toggled(list, name) {
  return list.includes(name) ? list.filter((one) => one !== name) : [...list, name];
}

// The state of each run of a variant as a square; the numbers of states if there are many.
function squares(runs) {
  const counts = STATES.map((state) => [state, runs.filter((run) => run.state === state).length]);
  const texts = counts.filter(([, count]) => count).map(([state, count]) => `${count} ${state}`);
  if (runs.length > MOST_SQUARES) return element("span", {}, texts.join(", "));
  const drawn = runs.map((run) =>
    element("i", { class: `square ${run.state}`, title: `seed ${run.seed}: ${describe(run)}` }),
  );
  return element("span", { class: "squares", role: "img", "aria-label": texts.join(", ") }, ...drawn);
}

function describe({ state, text, value }) {
  if (state === "finished" && value !== null) return `finished, ${value}`;
  return text ? `${state}, ${text}` : state;
}
