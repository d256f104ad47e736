// Lines: query tokens on the left, key tokens on the right, one colour per head.
//
// Tokens are text; lines are one canvas, since a long text has thousands of them. The lines of
// heads are side by side, strong ones above weak ones, so that each keeps its colour.

import { element, setAttribute, setText } from "./element.js";
import { LEVELS, MIDDLE, Ramp, categorical } from "./palettes.js";
import { roomBelow } from "./room.js";
import { rove, stopAt } from "./roving.js";
import { reveal } from "./scrolling.js";
import { mapTable } from "./tables.js";
import { number, short, visible } from "./tokens.js";

const ROW = 20;
const LARGE_ROW = 30; // if the panel is high enough
const SMALL_ROW = 12; // for several screens of tokens
const MANY = 128;
const STRONGEST = 5;
const PART = 0.02; // weaker lines are not drawn, even among the strongest five
const MARGIN = 24; // below the last row
const APART = 3; // maximum distance between the lines of two heads

export class LinesView {
  #model = null;
  #built = null;
  #moved = false;

  constructor(app) {
    this.app = app;
    this.layer = element("h3");
    this.heads = element("div", { class: "chips", role: "group", "aria-label": "Heads" });
    this.queries = this.#list("query (attends)", "query");
    this.keys = this.#list("key (attended to)", "key");
    this.canvas = element("canvas");
    this.strings = element("div", { class: "strings" }, this.canvas);
    this.columns = element("div", { class: "columns" }, this.queries, this.strings, this.keys);
    this.element = element(
      "div",
      { class: "lines" },
      element("div", { class: "caption" }, this.layer, this.heads),
      element(
        "div",
        { class: "titles", "aria-hidden": "true" },
        element("span", {}, "query (attends)"),
        element("span", {}, "key (attended to)"),
      ),
      this.columns,
    );
    app.hover.listen(() => this.#model && this.element.isConnected && this.#draw());
    new ResizeObserver(() => this.#model && this.#draw()).observe(this.strings);
  }

  update(model) {
    this.#moved ||= model.query !== this.#model?.query;
    this.#model = model;
    setText(this.layer, visible(model.map.name));
    this.#listHeads();
    this.#listTokens();
    this.#draw();
  }

  // After the layout: scrolls a newly chosen query into view.
  align() {
    const { query } = this.#model;
    if (this.#moved && query !== null) reveal(this.queries.children[query]);
    this.#moved = false;
  }

  table(model) {
    return mapTable(model);
  }

  #list(label, kind) {
    const at = (event) => {
      const index = event.target.closest("button")?.dataset.index;
      return index === undefined ? null : { query: null, key: null, [kind]: Number(index) };
    };
    const list = element("div", {
      class: `tokens ${kind}`,
      role: "group",
      "aria-label": label,
      onpointerover: (event) => this.app.hover.set(at(event)),
      onpointerleave: () => this.app.hover.set(null),
      onfocusin: (event) => this.app.hover.set(at(event)),
      onfocusout: () => this.app.hover.set(null),
      onclick: (event) => at(event) && this.#pin(at(event)),
    });
    rove(list, ["ArrowUp", "ArrowDown"]);
    return list;
  }

  #pin(target) {
    const { query, key } = this.app.state.values;
    const same = target.query === query && target.key === key;
    this.app.state.set(same ? { query: null, key: null } : target);
  }

  #listHeads() {
    const { map, values } = this.#model;
    const drawn = `${map.heads} ${map.isOfAllHeads} ${values.hidden} ${document.documentElement.dataset.theme}`;
    if (this.heads.dataset.drawn === drawn) return;
    this.heads.dataset.drawn = drawn;
    this.heads.replaceChildren(
      ...Array.from({ length: map.heads }, (_, head) => {
        const shown = map.isOfAllHeads || !values.hidden.includes(head);
        const chip = element(
          "button",
          {
            class: "chip",
            "aria-pressed": shown,
            title: `Head ${head}. Click: show or hide. Shift-click or double-click: show only this one.`,
            onclick: (event) =>
              event.shiftKey || event.detail === 2 ? this.#only(head) : this.#toggle(head),
          },
          element("i"),
          map.headMark(head),
        );
        chip.style.setProperty("--colour", categorical(head));
        return chip;
      }),
    );
  }

  #toggle(head) {
    const { hidden } = this.app.state.values;
    const others = hidden.filter((one) => one !== head);
    this.app.state.set({
      hidden: others.length < hidden.length ? others : [...hidden, head].sort((a, b) => a - b),
    });
  }

  #only(head) {
    const others = Array.from({ length: this.#model.map.heads }, (_, i) => i).filter(
      (i) => i !== head,
    );
    this.app.state.set({ hidden: others });
  }

  #listTokens() {
    const { record } = this.#model;
    if (this.#built === record.queries.join("\0") + record.keys.join("\0")) return;
    this.#built = record.queries.join("\0") + record.keys.join("\0");
    for (const [list, tokens] of [
      [this.queries, record.queries],
      [this.keys, record.keys],
    ]) {
      list.replaceChildren(
        ...tokens.map((token, index) =>
          element(
            "button",
            { "data-index": index, tabindex: -1, title: `${index}: ${visible(token)}` },
            short(token, 20),
          ),
        ),
      );
    }
  }

  #draw() {
    const { record, map, query, key } = this.#model;
    const pointer = this.app.hover.value;
    const hovers = pointer && (pointer.query !== null || pointer.key !== null);
    const focus = hovers ? pointer : { query, key: query === null ? key : null };
    const width = this.strings.clientWidth;
    if (!width) return;
    const most = Math.max(record.queries.length, record.keys.length);
    const row = rowHeight(most, roomBelow(this.columns));
    this.element.style.setProperty("--row", `${row}px`);
    const context = prepare(this.canvas, width, most * row);
    const heads = this.#shownHeads();
    const isFocused = focus.query !== null || focus.key !== null;
    const found = focusedLines(map, heads, focus) ?? strongestLines(map, heads);
    const parts = found
      .map((line) => ({ ...line, part: Math.min(1, Math.abs(line.weight) / (map.peak || 1)) }))
      .filter(({ part }) => part >= PART)
      .sort((a, b) => a.part - b.part);
    const gap = Math.min(APART, (row - 8) / Math.max(1, heads.length - 1));
    for (const { head, query: from, key: to, weight, part } of parts) {
      const aside = (heads.indexOf(head) - (heads.length - 1) / 2) * gap;
      const [y1, y2] = [from, to].map((index) => (index + 0.5) * row + aside);
      context.strokeStyle = categorical(head);
      context.globalAlpha = isFocused ? 0.3 + 0.7 * part : 0.05 + 0.85 * part;
      context.lineWidth = isFocused ? 1 + 2.5 * part : 1 + part;
      context.setLineDash(weight < 0 ? [4, 3] : []);
      context.beginPath();
      context.moveTo(0, y1);
      context.bezierCurveTo(width * 0.4, y1, width * 0.6, y2, width, y2);
      context.stroke();
    }
    this.canvas.dataset.lines = parts.length;
    this.#shade(
      this.queries,
      focus.key === null ? null : (one) => meanWeight(map, heads, one, focus.key),
      query,
      focus.query,
    );
    this.#shade(
      this.keys,
      focus.query === null ? null : (one) => meanWeight(map, heads, focus.query, one),
      key,
      focus.key,
    );
  }

  #shownHeads() {
    const { map, values } = this.#model;
    const all = Array.from({ length: map.heads }, (_, head) => head);
    return map.isOfAllHeads ? all : all.filter((head) => !values.hidden.includes(head));
  }

  // Colours the tokens of one side by their weights with the focused token of the other side.
  #shade(list, weightOf, pinned, focused) {
    const { map } = this.#model;
    const ramp = Ramp.of(map.isSigned ? "diverging" : "tint");
    const zero = map.isSigned ? MIDDLE : 0;
    if (!list.contains(document.activeElement)) stopAt(list, list.children[pinned ?? 0]);
    for (const button of list.children) {
      const index = Number(button.dataset.index);
      const weight = weightOf ? weightOf(index) : 0;
      const part = Math.max(-1, Math.min(1, weight / (map.peak || 1)));
      const level = Math.round(zero + part * (LEVELS - zero));
      button.style.background = level === zero ? "" : ramp.css(level);
      button.style.color = level === zero ? "" : ramp.ink(level);
      setAttribute(button, "aria-pressed", index === pinned);
      button.classList.toggle("focused", index === focused);
      button.dataset.weight = weightOf ? number(weight) : "";
    }
  }
}

// Rows grow to the available height; if the tokens need scrolling, rows are low.
function rowHeight(tokens, room) {
  if (tokens > MANY) return SMALL_ROW;
  return Math.max(ROW, Math.min(LARGE_ROW, Math.floor((room - MARGIN) / tokens)));
}

function prepare(canvas, width, height) {
  const sharp = height * devicePixelRatio > 8192 ? 1 : devicePixelRatio;
  canvas.width = Math.round(width * sharp);
  canvas.height = Math.round(height * sharp);
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(sharp, 0, 0, sharp, 0, 0);
  context.lineCap = "round";
  return context;
}

function meanWeight(map, heads, query, key) {
  if (query >= map.queries || key >= map.keys) return 0;
  const sum = heads.reduce((total, head) => total + map.weight(head, query, key), 0);
  return sum / Math.max(1, heads.length);
}

// All lines of the token under the pointer, or of the pinned one; null if there is none.
function focusedLines(map, heads, { query, key }) {
  if (query !== null && query < map.queries) {
    return heads.flatMap((head) =>
      map.strongest(head, query, map.keys).map((one) => ({ head, query, ...one })),
    );
  }
  if (key === null || key >= map.keys) return null;
  const all = Array.from({ length: map.queries }, (_, at) => at);
  return heads.flatMap((head) =>
    all
      .filter((at) => map.isAllowed(head, at, key))
      .map((at) => ({ head, query: at, key, weight: map.weight(head, at, key) })),
  );
}

const cachedLines = new WeakMap(); // layer -> head -> lines, cached for pointer movements

function strongestLines(map, heads) {
  if (!cachedLines.has(map)) cachedLines.set(map, []);
  const ofHeads = cachedLines.get(map);
  return heads.flatMap((head) => {
    ofHeads[head] ??= Array.from({ length: map.queries }, (_, query) =>
      map.strongest(head, query, STRONGEST).map((one) => ({ head, query, ...one })),
    ).flat();
    return ofHeads[head];
  });
}
