// Describes the row under the pointer, or the pinned one: query, keys and weights.

import { element } from "./element.js";
import { number, quoted, short } from "./tokens.js";

const MAX_ITEMS = 5;

export class Readout {
  #shown = "";

  constructor() {
    this.element = element("p", { class: "readout" });
  }

  update({ record, map, head }, { query, key }) {
    const shown = [map.codes.byteOffset, map.name, head, query, key].join();
    if (record === this.record && shown === this.#shown) return;
    this.record = record;
    this.#shown = shown;
    this.element.replaceChildren(...this.#words(record, map, head, query, key));
  }

  #words(record, map, head, query, key) {
    if (query === null && key === null) {
      return [element("span", { class: "hint" }, "Point at the map; click to pin a row.")];
    }
    if (query === null) {
      return [
        strong(record.keys[key]),
        " is attended to most by ",
        ...this.#queriesOf(record, map, head, key),
      ];
    }
    const cell =
      key === null
        ? []
        : [strong(record.keys[key]), " ", value(map, head, query, key), " · most: "];
    const most = map.strongest(head, query, MAX_ITEMS);
    const list = most.length
      ? most.flatMap(({ key: at, weight }) => [item(record.keys[at], weight)])
      : ["nothing"];
    return [
      strong(record.queries[query]),
      record.isDifference ? (key === null ? " differs most at " : " at ") : " attends to ",
      ...cell,
      ...list,
    ];
  }

  #queriesOf(record, map, head, key) {
    return record.queries
      .map((token, query) => ({
        token,
        weight: map.weight(head, query, key),
        seen: map.isAllowed(head, query, key),
      }))
      .filter(({ seen }) => seen)
      .sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight))
      .slice(0, MAX_ITEMS)
      .map(({ token, weight }) => item(token, weight));
  }
}

function value(map, head, query, key) {
  return map.isAllowed(head, query, key) ? number(map.weight(head, query, key)) : "masked";
}

function strong(token) {
  return element("b", {}, quoted(token));
}

function item(token, weight) {
  return element("span", { class: "item" }, element("code", {}, short(token, 16)), number(weight));
}
