// Tokens: the text itself, coloured by what the pinned token looks at, and by who looks at it.

import { element, setAttribute, setText } from "./element.js";
import { LEVELS, Ramp } from "./palettes.js";
import { number, quoted, visible } from "./tokens.js";

export class TokensView {
  #model = null;

  constructor(app) {
    this.app = app;
    this.title = element("h3");
    this.forwards = new Text("query", (index) => this.#pin("query", index), app);
    this.backwards = new Text("key", (index) => this.#pin("key", index), app);
    this.element = element(
      "div",
      { class: "texts" },
      this.title,
      this.forwards.element,
      this.backwards.element,
    );
    app.hover.listen(() => this.#model && this.element.isConnected && this.#colour());
  }

  update(model) {
    this.#model = model;
    setText(this.title, `${visible(model.map.name)} · head ${model.head}`);
    this.#colour();
  }

  table({ record, map, head, query, key }) {
    const { from, to } = chosen(record, map, head, query, key);
    const forwards = record.keys.map((token, at) => [
      "is looked at by the pinned query",
      at,
      token,
      map.weight(head, from, at),
    ]);
    const backwards = record.queries.map((token, at) => [
      "looks at the pinned key",
      at,
      token,
      map.weight(head, at, to),
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
    const ramp = map.isSigned ? "diverging" : values.colours;
    this.forwards.update({
      said: [quoted(record.queries[from]), " looks at"],
      tokens: record.keys,
      weights: record.keys.map((_, at) =>
        map.isAllowed(head, from, at) ? map.weight(head, from, at) : null,
      ),
      marked: record.kind === "self" ? from : null,
      ramp,
    });
    this.backwards.update({
      said: [quoted(record.keys[to]), " is looked at by"],
      tokens: record.queries,
      weights: record.queries.map((_, at) =>
        map.isAllowed(head, at, to) ? map.weight(head, at, to) : null,
      ),
      marked: record.kind === "self" ? to : from,
      ramp,
    });
  }

  // A token of self-attention is a query and a key at once; of cross-attention, one of them.
  #pin(kind, index) {
    const { kind: role } = this.#model.record;
    const clicked = kind === "query" ? "key" : "query";
    if (role === "self") this.app.state.set({ query: index, key: index });
    else this.app.state.set({ [clicked]: index });
  }
}

// The query whose row, and the key whose column, is shown: the pinned ones, or sensible others.
function chosen(record, map, head, query, key) {
  const last = record.queries.length - 1;
  const from = Math.min(query ?? Math.floor(last / 2), last);
  const among =
    record.kind === "self"
      ? Math.min(from, record.keys.length - 1)
      : (map.strongest(head, from, 1)[0]?.key ?? 0);
  return { from, to: Math.min(key ?? among, record.keys.length - 1) };
}

class Text {
  #listed = null;

  constructor(kind, pin, app) {
    this.kind = kind;
    this.said = element("p", { class: "said" });
    this.peak = element("span", { class: "peak" });
    this.text = element("div", {
      class: "text",
      role: "group",
      onclick: (event) => at(event) !== null && pin(at(event)),
      onpointerover: (event) => this.#tell(at(event)),
      onpointerleave: () => this.#tell(null),
    });
    this.app = app;
    this.element = element(
      "section",
      {},
      element("div", { class: "said-line" }, this.said, this.peak),
      this.text,
    );
  }

  update({ said, tokens, weights, marked, ramp }) {
    this.tokens = tokens;
    this.weights = weights;
    if (this.#listed !== tokens) {
      this.#listed = tokens;
      this.text.replaceChildren(
        ...tokens.flatMap((token, index) => {
          const button = element("button", { "data-index": index }, visible(token));
          return token.includes("\n") ? [button, element("br")] : [button];
        }),
      );
    }
    this.said.replaceChildren(element("b", {}, said[0]), said[1]);
    const most = Math.max(1e-12, ...weights.map((weight) => Math.abs(weight ?? 0)));
    this.most = weights.findIndex((weight) => Math.abs(weight ?? 0) === most);
    this.#tell(null);
    const buttons = this.text.querySelectorAll("button");
    weights.forEach((weight, index) =>
      this.#paint(buttons[index], weight, most, Ramp.of(ramp), index === marked, ramp),
    );
  }

  #paint(button, weight, most, ramp, isMarked, name) {
    const part = weight === null ? 0 : weight / most;
    const level = name === "diverging" ? Math.round(127 + 127 * part) : Math.round(LEVELS * part);
    button.style.background = weight === null ? "" : ramp.css(level);
    button.style.color = weight === null ? "" : ramp.ink(level);
    button.classList.toggle("masked", weight === null);
    setAttribute(button, "aria-pressed", isMarked);
    button.dataset.weight = weight === null ? "masked" : number(weight);
    button.title = `${button.dataset.index}: ${weight === null ? "masked" : number(weight)}`;
  }

  // The weight of the token under the pointer, or the largest.
  #tell(index) {
    const shown = index ?? this.most;
    if (shown < 0 || !this.weights) return;
    const weight = this.weights[shown];
    const label = index === null ? "most: " : "";
    const told = weight === null ? "masked" : number(weight);
    setText(this.peak, `${label}${quoted(this.tokens[shown])} ${told}`);
  }
}

function at(event) {
  const index = event.target.closest("button")?.dataset.index;
  return index === undefined ? null : Number(index);
}
