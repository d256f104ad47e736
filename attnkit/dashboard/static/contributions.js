// What each part of a model adds to its prediction after each token of a text: the chart of the
// Contributions view, and the page of `attnkit explain`.

import { element, setText } from "./element.js";
import { followTheme } from "./host.js";
import { readable, visible } from "./tokens.js";

const TALL = 214; // pixels of a stack
const KINDS = { embedding: "embedding", head: "heads", mlp: "MLPs", constant: "biases" };

const LEAD =
  "Each token predicts the next one. The bars show what each part of the model adds to the " +
  "logit of one token, above the mean over the vocabulary: the embedding of the token, the " +
  "proposal of each attention head (ΔE), each MLP.";

const LINEAR =
  "The pieces of a bar sum exactly to that logit. The norms are linear here: each divides by the " +
  "size that it had in the forward pass. What is not linear inside a head or an MLP is not split. " +
  "Effects are direct: what later layers compute from a proposal counts as their effect.";

const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
const code = (text) => element("code", {}, visible(text));
const add = (values) => values.reduce((sum, value) => sum + value, 0);

// The page in a file.
export function start({ title, moment }) {
  followTheme();
  let chosen = { token: null, goal: "next" };
  const chart = new Contributions((changes) => {
    chosen = { ...chosen, ...changes };
    chart.draw(moment, chosen, rangeOf(moment, chosen.goal));
  });
  const heading = element("h1", {}, readable(title));
  document.body.replaceChildren(element("main", { class: "explanation" }, heading, chart.element));
  chart.draw(moment, chosen, rangeOf(moment, chosen.goal));
}

// How far the stacks reach above and below zero.
export function rangeOf(moment, goal) {
  const columns = moment.tokens.map((_, token) => effectsOf(moment, goal, token));
  const reach = (sign) =>
    Math.max(...columns.map((of) => add(of.map((value) => Math.max(0, sign * value)))));
  return { up: reach(1), down: reach(-1) };
}

function effectsOf(moment, goal, token) {
  return moment[goal].effects.map((of) => of[token]);
}

export class Contributions {
  // `choose` is called with {token} or {goal}.
  constructor(choose) {
    this.choose = choose;
    const button = (goal, words) =>
      element("button", { type: "button", onclick: () => choose({ goal }) }, words);
    this.buttons = {
      next: button("next", "The next token"),
      top: button("top", "The model's choice"),
    };
    this.goals = element(
      "div",
      { class: "goal", role: "group", "aria-label": "Effect on" },
      ...Object.values(this.buttons),
    );
    this.bars = element("div", {
      class: "bars",
      role: "listbox",
      tabindex: 0,
      "aria-label": "Tokens",
      onkeydown: (event) => this.#key(event),
    });
    this.legend = element("p", { class: "soft" });
    this.reading = element("p", { class: "reading", "aria-live": "polite" });
    this.heading = element("h2");
    this.parts = element("table");
    this.lens = element("table");
    this.element = element(
      "div",
      { class: "contributions" },
      this.goals,
      element("p", { class: "soft" }, LEAD),
      this.bars,
      this.legend,
      this.reading,
      element(
        "div",
        { class: "detail" },
        element("section", {}, this.heading, this.parts),
        element("section", {}, element("h2", {}, "If the model ended at this layer"), this.lens),
      ),
      element("p", { class: "soft" }, LINEAR),
    );
  }

  // `token` null: the last one. `range`: from `rangeOf`, shared by the charts of a page.
  draw(moment, { token, goal }, range) {
    if (moment !== this.moment || goal !== this.goal) setText(this.reading, ""); // it described others
    const last = moment.tokens.length - 1;
    const chosen = Math.min(token ?? last, last);
    const isNew = chosen !== this.token;
    Object.assign(this, { moment, goal, token: chosen });
    for (const [name, button] of Object.entries(this.buttons)) {
      button.setAttribute("aria-pressed", String(name === goal));
    }
    this.goals.hidden = moment.next.tokens.every((text, t) => text === moment.top.tokens[t]);
    this.#drawLegend();
    this.#drawBars(range);
    if (isNew) this.#reveal();
    this.#drawTables();
  }

  // Scrolls the chosen token into view, and nothing but the bars.
  #reveal() {
    const { offsetLeft: left, offsetWidth: width } = this.bars.children[this.token];
    const { offsetLeft: start, clientWidth: room } = this.bars;
    const [first, end] = [left - start, left - start + width];
    this.bars.scrollLeft = Math.min(first, Math.max(this.bars.scrollLeft, end - room));
  }

  #effects(token) {
    return effectsOf(this.moment, this.goal, token);
  }

  #drawLegend() {
    const kinds = Object.entries(KINDS).filter(([kind]) =>
      this.moment.parts.some((part) => part.kind === kind),
    );
    const keys = kinds.flatMap(([kind, name]) => [
      element("span", { class: `swatch of-${kind}` }),
      name,
    ]);
    const how = "Thick line: the sum. Point at a piece to read it; click a token.";
    this.legend.replaceChildren(...keys, element("span", { class: "how" }, how));
  }

  // All stacks share one scale: what raises the logit goes up from zero.
  #drawBars({ up, down }) {
    const scale = TALL / Math.max(0.001, up + down);
    const zero = 3 + up * scale;
    this.bars.replaceChildren(
      ...this.moment.tokens.map((_, token) => this.#column(token, scale, zero)),
    );
  }

  #column(token, scale, zero) {
    const values = this.#effects(token);
    const stack = element("div", { class: "stack" });
    let [up, down] = [0, 0];
    values.forEach((value, part) => {
      const size = Math.abs(value) * scale;
      if (size >= 0.5) {
        const piece = element("span", {
          class: `of-${this.moment.parts[part].kind}`,
          onpointerenter: () => this.#read(token, part),
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
      {
        class: "token",
        role: "option",
        "aria-selected": String(token === this.token),
        onclick: () => this.choose({ token }),
      },
      stack,
      element("div", { class: "label" }, visible(this.moment.tokens[token])),
    );
  }

  #read(token, part) {
    const { moment } = this;
    const directions = moment.words[part][token].flatMap(([text, by]) => [
      " ",
      code(text),
      ` ${signed(by)}`,
    ]);
    this.reading.replaceChildren(
      element("strong", {}, readable(moment.parts[part].name)),
      " at ",
      code(moment.tokens[token]),
      `: ${signed(this.#effects(token)[part])} on the logit of `,
      code(moment[this.goal].tokens[token]),
      `. It adds a vector of length ${moment.lengths[part][token].toFixed(2)}`,
      `, with the cosine ${signed(moment.turns[part][token])} to the sum before the head. `,
      "It points to",
      ...directions,
    );
  }

  // The parts of the chosen token by the size of their effects, and its logit lens.
  #drawTables() {
    const { moment, token } = this;
    const goal = moment[this.goal].tokens[token];
    const values = this.#effects(token);
    const order = values.map((_, part) => part);
    order.sort((a, b) => Math.abs(values[b]) - Math.abs(values[a]));
    this.heading.replaceChildren("At ", code(moment.tokens[token]), ": effects on the logit of ", code(goal));
    const largest = Math.max(0.001, ...values.map(Math.abs));
    this.parts.replaceChildren(
      row(true, ["part"], ["effect", true], [""], ["length", true], ["points to"]),
      ...order.map((part) => this.#partRow(part, values[part], largest)),
      row(false, ["sum"], [signed(add(values)), true]),
    );
    this.lens.replaceChildren(
      row(true, ["after"], ["likeliest"], ["", true], [`rank of ${visible(goal)}`, true]),
      ...moment.lens.map(({ name, words, ranks }) => {
        const [text, chance] = words[token];
        const share = `${Math.round(100 * chance)} %`;
        const rank = ranks[this.goal][token];
        return row(false, [readable(name)], [code(text)], [share, true], [String(rank), true]);
      }),
    );
  }

  #partRow(part, value, largest) {
    const { moment, token } = this;
    const bar = element("span", { class: `bar of-${moment.parts[part].kind}` });
    bar.style.width = `${(90 * Math.abs(value)) / largest}px`;
    const words = element("span", {}, ...moment.words[part][token].map(([text]) => code(text)));
    const line = row(
      false,
      [readable(moment.parts[part].name)],
      [signed(value), true],
      [bar],
      [moment.lengths[part][token].toFixed(2), true],
      [words],
    );
    line.addEventListener("pointerenter", () => this.#read(token, part));
    return line;
  }

  #key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const last = this.moment.tokens.length - 1;
    this.choose({ token: Math.min(last, Math.max(0, this.token + step)) });
  }
}

function row(isHead, ...cells) {
  const name = isHead ? "th" : "td";
  const children = cells.map(([content, isNumber]) =>
    element(name, { class: isNumber ? "right" : "" }, content),
  );
  return element("tr", {}, ...children);
}
