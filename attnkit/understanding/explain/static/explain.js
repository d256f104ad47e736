// What each part of a model adds to its prediction after each token of a text.

import { element, setText } from "./element.js";
import { followTheme } from "./host.js";
import { readable, visible } from "./tokens.js";

const TALL = 214; // pixels of a stack
const KINDS = { embedding: "embedding", head: "heads", mlp: "MLPs", constant: "biases" };

export function start(data) {
  followTheme();
  document.body.replaceChildren(new Explanation(data).element);
}

const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
const code = (text) => element("code", {}, visible(text));
const add = (values) => values.reduce((sum, value) => sum + value, 0);

class Explanation {
  constructor(data) {
    this.data = data;
    this.token = data.tokens.length - 1;
    this.goal = "next";
    const button = (goal, words) =>
      element("button", { type: "button", onclick: () => this.aimAt(goal) }, words);
    this.buttons = {
      next: button("next", "The next token"),
      top: button("top", "The model's choice"),
    };
    const isOne = data.next.tokens.every((text, t) => text === data.top.tokens[t]);
    this.bars = element("div", {
      class: "bars",
      role: "listbox",
      tabindex: 0,
      "aria-label": "Tokens",
      onkeydown: (event) => this.key(event),
    });
    this.reading = element("p", { class: "reading", "aria-live": "polite" });
    this.heading = element("h2");
    this.parts = element("table");
    this.lens = element("table");
    this.element = element(
      "main",
      { class: "explain" },
      element(
        "header",
        {},
        element("h1", {}, readable(data.title)),
        element(
          "div",
          { class: "goal", role: "group", "aria-label": "Effect on", hidden: isOne },
          ...Object.values(this.buttons),
        ),
      ),
      element("p", { class: "soft" }, data.lead),
      this.bars,
      this.legend(),
      this.reading,
      element(
        "div",
        { class: "detail" },
        element("section", {}, this.heading, this.parts),
        element("section", {}, element("h2", {}, "If the model ended at this layer"), this.lens),
      ),
      element("p", { class: "soft" }, data.honest),
    );
    this.aimAt("next");
  }

  get tokens() {
    return this.data[this.goal].tokens;
  }

  effects(token) {
    return this.data[this.goal].effects.map((of) => of[token]);
  }

  legend() {
    const kinds = Object.entries(KINDS).filter(([kind]) =>
      this.data.parts.some((part) => part.kind === kind),
    );
    const keys = kinds.flatMap(([kind, name]) => [
      element("span", { class: `swatch ${kind}` }),
      name,
    ]);
    const how = "   Thick line: the sum. Point at a piece to read it; click a token.";
    return element("p", { class: "soft" }, ...keys, how);
  }

  aimAt(goal) {
    this.goal = goal;
    for (const [name, button] of Object.entries(this.buttons)) {
      button.setAttribute("aria-pressed", String(name === goal));
    }
    this.drawBars();
    this.choose(this.token);
    setText(this.reading, ""); // it told the effect on the other goal
  }

  // All stacks share one scale: what raises the logit goes up from zero.
  drawBars() {
    const columns = this.data.tokens.map((_, token) => this.effects(token));
    const highest = Math.max(0.001, ...columns.map((of) => add(of.filter((value) => value > 0))));
    const lowest = Math.min(0, ...columns.map((of) => add(of.filter((value) => value < 0))));
    const scale = TALL / (highest - lowest);
    const zero = 3 + highest * scale;
    this.bars.replaceChildren(
      ...columns.map((values, token) => this.column(values, token, scale, zero)),
    );
  }

  column(values, token, scale, zero) {
    const stack = element("div", { class: "stack" });
    let [up, down] = [0, 0];
    values.forEach((value, part) => {
      const size = Math.abs(value) * scale;
      if (size >= 0.5) {
        const piece = element("span", {
          class: this.data.parts[part].kind,
          onpointerenter: () => this.read(token, part),
        });
        piece.style.height = `${size}px`;
        piece.style.top = `${value > 0 ? zero - up - size : zero + down}px`;
        stack.append(piece);
      }
      if (value > 0) up += size;
      else down += size;
    });
    for (const [name, top] of [
      ["zero", zero],
      ["sum", zero - add(values) * scale - 1],
    ]) {
      const line = element("span", { class: name });
      line.style.top = `${top}px`;
      stack.append(line);
    }
    return element(
      "div",
      { class: "token", role: "option", onclick: () => this.choose(token) },
      stack,
      element("div", { class: "said" }, visible(this.data.tokens[token])),
    );
  }

  read(token, part) {
    const { data } = this;
    const turn = data.turns[part][token];
    const words = data.words[part][token];
    const named = words.flatMap(([text, by]) => [" ", code(text), ` ${signed(by)}`]);
    this.reading.replaceChildren(
      element("strong", {}, data.parts[part].name),
      " at ",
      code(data.tokens[token]),
      `: ${signed(this.effects(token)[part])} on the logit of `,
      code(this.tokens[token]),
      `. It adds a vector of length ${data.lengths[part][token].toFixed(2)}`,
      `, with the cosine ${signed(turn)} to the sum before the head. It points to`,
      ...named,
    );
  }

  choose(token) {
    this.token = token;
    [...this.bars.children].forEach((column, t) => {
      column.setAttribute("aria-selected", String(t === token));
    });
    const values = this.effects(token);
    const order = values.map((_, part) => part);
    order.sort((a, b) => Math.abs(values[b]) - Math.abs(values[a]));
    this.heading.replaceChildren(
      "At ",
      code(this.data.tokens[token]),
      ": what speaks for ",
      code(this.tokens[token]),
    );
    const largest = Math.max(0.001, ...values.map(Math.abs));
    this.parts.replaceChildren(
      row(true, ["part"], ["effect", true], [""], ["length", true], ["points to"]),
      ...order.map((part) => this.partRow(token, part, values[part], largest)),
      row(false, ["sum"], [signed(add(values)), true]),
    );
    const goal = visible(this.tokens[token]);
    this.lens.replaceChildren(
      row(true, ["after"], ["likeliest"], ["", true], [`rank of ${goal}`, true]),
      ...this.data.lens.map(({ name, words, ranks }) => {
        const [text, chance] = words[token];
        const share = `${Math.round(100 * chance)} %`;
        return row(false, [name], [code(text)], [share, true], [ranks[this.goal][token], true]);
      }),
    );
  }

  partRow(token, part, value, largest) {
    const bar = element("span", { class: `bar ${this.data.parts[part].kind}` });
    bar.style.width = `${(90 * Math.abs(value)) / largest}px`;
    const words = element("span", {}, ...this.data.words[part][token].map(([text]) => code(text)));
    const length = this.data.lengths[part][token].toFixed(2);
    const made = row(
      false,
      [this.data.parts[part].name],
      [signed(value), true],
      [bar],
      [length, true],
      [words],
    );
    made.addEventListener("pointerenter", () => this.read(token, part));
    return made;
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    this.choose(Math.min(this.data.tokens.length - 1, Math.max(0, this.token + step)));
    this.bars.children[this.token].scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

function row(isHead, ...cells) {
  const name = isHead ? "th" : "td";
  const made = cells.map(([content, isNumber]) =>
    element(name, { class: isNumber ? "right" : "" }, content),
  );
  return element("tr", {}, ...made);
}
