// Tokens: the text, tinted by the keys of the pinned token and by its queries: a row and a column
// of the map, on the scale of the map.

import { element, setAttribute, setText } from "./element.js";
import { Legend } from "./legend.js";
import { MASKED, Ramp } from "./palettes.js";
import { rove, stopAt } from "./roving.js";
import { effectiveScale, isDiverging, levels } from "./scales.js";
import { number, quoted, visible } from "./tokens.js";

const TINT = "tint";

export class TokensView {
  #model = null;
  #levels = null;

  constructor(app) {
    this.app = app;
    this.title = element("h3");
    this.legend = new Legend();
    this.forwards = new Text("keys", (index) => this.#pin("key", index));
    this.backwards = new Text("queries", (index) => this.#pin("query", index));
    this.element = element(
      "div",
      { class: "texts" },
      element("div", { class: "caption" }, this.title, this.legend.element),
      this.forwards.element,
      this.backwards.element,
    );
    app.hover.listen(() => this.#model && this.element.isConnected && this.#colour());
  }

  update(model) {
    this.#model = model;
    setText(this.title, `${visible(model.map.name)} · ${model.map.headName(model.head)}`);
    this.legend.update(model.map, { ...model.values, colours: TINT });
    this.#levels = levels(model.map, model.head, model.values.scale);
    this.#colour();
  }

  table({ record, map, head, query, key }) {
    const { from, to } = chosen(record, map, head, query, key);
    const cell = (query, key) =>
      map.isAllowed(head, query, key) ? map.weight(head, query, key) : "";
    const forwards = record.keys.map((token, at) => [
      "is attended to by the pinned query",
      at,
      token,
      cell(from, at),
    ]);
    const backwards = record.queries.map((token, at) => [
      "attends to the pinned key",
      at,
      token,
      cell(at, to),
    ]);
    return [["direction", "position", "token", "weight"], ...forwards, ...backwards];
  }

  // Colours the keys by a row of the map and the queries by a column.
  #colour() {
    const { record, map, head, values } = this.#model;
    const pointer = this.app.hover.value ?? {};
    const { from, to } = chosen(
      record,
      map,
      head,
      pointer.query ?? this.#model.query,
      pointer.key ?? this.#model.key,
    );
    const diverging = isDiverging(map, effectiveScale(map, values.scale));
    const ramp = Ramp.of(diverging ? "diverging" : TINT);
    const cell = (query, key) => ({
      level: this.#levels[query * map.keys + key],
      weight: map.weight(head, query, key),
    });
    const isSelf = record.kind === "self";
    this.forwards.update({
      lead: [quoted(record.queries[from]), " attends to"],
      tokens: record.keys,
      cells: record.keys.map((_, at) => cell(from, at)),
      marked: isSelf ? from : to,
      ramp,
    });
    this.backwards.update({
      lead: [quoted(record.keys[to]), " is attended to by"],
      tokens: record.queries,
      cells: record.queries.map((_, at) => cell(at, to)),
      marked: isSelf ? to : from,
      ramp,
    });
  }

  // A token of self-attention is both a query and a key; of cross-attention, one of them.
  #pin(kind, index) {
    const isSelf = this.#model.record.kind === "self";
    this.app.state.set(isSelf ? { query: index, key: index } : { [kind]: index });
  }
}

// The query whose row, and the key whose column, is shown: the pinned ones, or defaults.
function chosen(record, map, head, query, key) {
  const last = record.queries.length - 1;
  const from = Math.min(query ?? Math.floor(last / 2), last);
  const among =
    record.kind === "self"
      ? Math.min(from, record.keys.length - 1)
      : (map.strongest(head, from, 1)[0]?.key ?? 0);
  return { from, to: Math.min(key ?? among, record.keys.length - 1) };
}

// The weight of a token as text, or that there is none.
function weightText({ level, weight }) {
  return level === MASKED ? "masked" : number(weight);
}

class Text {
  #listed = null;

  constructor(name, pin) {
    this.lead = element("p", { class: "lead" });
    this.peak = element("span", { class: "peak" });
    this.text = element("div", {
      class: "text",
      role: "group",
      "aria-label": name,
      onclick: (event) => at(event) !== null && pin(at(event)),
      onpointerover: (event) => this.#describe(at(event)),
      onpointerleave: () => this.#describe(null),
      onfocusin: (event) => this.#describe(at(event)),
      onfocusout: () => this.#describe(null),
    });
    rove(this.text, ["ArrowLeft", "ArrowRight"]);
    this.element = element(
      "section",
      {},
      element("div", { class: "lead-line" }, this.lead, this.peak),
      this.text,
    );
  }

  update({ lead, tokens, cells, marked, ramp }) {
    this.tokens = tokens;
    this.cells = cells;
    if (this.#listed !== tokens) {
      this.#listed = tokens;
      this.text.replaceChildren(
        ...tokens.flatMap((token, index) => {
          const button = element("button", { "data-index": index, tabindex: -1 }, visible(token));
          return token.includes("\n") ? [button, element("br")] : [button];
        }),
      );
    }
    this.lead.replaceChildren(element("b", {}, lead[0]), lead[1]);
    const sizes = cells.map((cell) => (cell.level === MASKED ? -1 : Math.abs(cell.weight)));
    this.most = sizes.indexOf(Math.max(...sizes));
    this.#describe(null);
    const buttons = this.text.querySelectorAll("button");
    cells.forEach((cell, index) => paint(buttons[index], cell, ramp, index === marked));
    if (!this.text.contains(document.activeElement)) stopAt(this.text, buttons[marked ?? 0]);
  }

  // The weight of the token under the pointer, or the largest.
  #describe(index) {
    const shown = index ?? this.most;
    if (!this.cells) return;
    const label = index === null ? "most: " : "";
    setText(this.peak, `${label}${quoted(this.tokens[shown])} ${weightText(this.cells[shown])}`);
  }
}

function paint(button, cell, ramp, isMarked) {
  const masked = cell.level === MASKED;
  button.style.background = masked ? "" : ramp.css(cell.level);
  button.style.color = masked ? "" : ramp.ink(cell.level);
  button.classList.toggle("masked", masked);
  setAttribute(button, "aria-pressed", isMarked);
  button.dataset.weight = weightText(cell);
  button.title = `${button.dataset.index}: ${weightText(cell)}`;
}

function at(event) {
  const index = event.target.closest("button")?.dataset.index;
  return index === undefined ? null : Number(index);
}
