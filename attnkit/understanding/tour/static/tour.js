// The tour: a page per idea, with its switch and the results of its models.

import { element } from "./element.js";
import { followTheme } from "./host.js";
import { LEVELS, Ramp } from "./palettes.js";
import { visible } from "./tokens.js";

export function start(data) {
  const tour = new Tour(data);
  document.body.append(tour.element);
  followTheme();
  window.addEventListener("hashchange", () => tour.read());
  window.addEventListener("themechange", () => tour.draw());
  window.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) tour.turn(by);
  });
  tour.read();
}

class Tour {
  constructor(data) {
    this.data = data;
    this.element = element("div", { class: "tour" });
  }

  // The address contains the language, the page and the switch, so that a link shows the same view.
  read() {
    const [language, name, switched] = window.location.hash.slice(1).split("/");
    const preferred = navigator.language.startsWith("ko") ? "ko" : "en";
    this.language = language in this.data.words ? language : preferred;
    this.page = Math.max(
      0,
      this.data.ideas.findIndex((idea) => idea.name === name),
    );
    this.off = switched === "off";
    this.map = 0;
    this.draw();
  }

  go({ language = this.language, page = this.page, off = false }) {
    const name = this.data.ideas[page].name;
    // Unlike an assignment to location.hash, this draws before the next click.
    window.history.pushState(null, "", `#${language}/${name}/${off ? "off" : "on"}`);
    this.read();
  }

  turn(by) {
    if (this.page + by in this.data.ideas) this.go({ page: this.page + by });
  }

  draw() {
    const words = this.data.words[this.language];
    const idea = this.data.ideas[this.page];
    const text = words.ideas[idea.name];
    const panel = this.off ? idea.off : idea.on;
    document.documentElement.lang = this.language;
    document.title = `${text.title} - ${words.title}`;
    const other = this.language === "en" ? "ko" : "en";
    const quiet = { class: "quiet-text" };
    this.element.replaceChildren(
      element(
        "header",
        {},
        element("h1", {}, words.title),
        button(words.language, () => this.go({ language: other, off: this.off }), { lang: other }),
      ),
      element("nav", {}, ...this.pages(words)),
      element(
        "main",
        {},
        this.page === 0 ? element("p", quiet, words.intro) : null,
        element("h2", {}, text.title),
        element("p", {}, text.text),
        element("div", { class: "switch", role: "group" }, ...this.switches(words, text)),
        this.off ? element("p", { class: "without" }, text.without) : null,
        element("dl", {}, ...facts(idea, panel, words, text)),
        ...this.maps(panel.site, words),
        panel.guesses ? guesses(panel.guesses, words) : null,
        element("p", quiet, `${words.command}: `, element("code", {}, panel.command)),
        element(
          "div",
          { class: "steps" },
          button(words.previous, () => this.turn(-1), { disabled: this.page === 0 }),
          button(words.next, () => this.turn(1), {
            disabled: this.page === this.data.ideas.length - 1,
          }),
        ),
      ),
    );
  }

  pages(words) {
    return this.data.ideas.map((idea, page) => {
      const current = page === this.page ? { "aria-current": "page" } : {};
      return button(words.ideas[idea.name].title, () => this.go({ page }), current);
    });
  }

  switches(words, text) {
    return [false, true].map((off) =>
      button(
        `${text.title}: ${off ? words.switch_off : words.switch_on}`,
        () => this.go({ off }),
        { "aria-pressed": off === this.off },
      ),
    );
  }

  maps(site, words) {
    if (!site) return [element("p", { class: "quiet-text" }, words.no_map)];
    const several = site.maps.length > 1;
    const reading = element("p", { class: "quiet-text", "aria-live": "polite" });
    reading.textContent = several ? words.reading : "";
    const shown = several
      ? [
          element("p", { class: "quiet-text" }, words.heads),
          element("div", { class: "heads" }, ...this.heads(site)),
        ]
      : [];
    return [...shown, enlarged(site, site.maps[this.map], reading), reading];
  }

  heads(site) {
    return site.maps.map((map, number) => {
      const choice = button(
        map.name,
        () => {
          this.map = number;
          this.draw();
        },
        { "aria-pressed": number === this.map },
      );
      choice.prepend(thumbnail(map.weights));
      return choice;
    });
  }
}

function button(label, act, attributes = {}) {
  return element("button", { ...attributes, onclick: act }, label);
}

function facts(idea, panel, words, text) {
  const rows = [];
  const add = (name, value) => rows.push(element("dt", {}, name), element("dd", {}, value));
  const both = (key, format) =>
    `${words.switch_on}: ${format(idea.on[key])}   ${words.switch_off}: ${format(idea.off[key])}`;
  if ("loss" in panel) add(`${words.loss} (${words.unit})`, both("loss", (x) => x.toFixed(2)));
  if ("exact" in panel) add(words.exact, both("exact", (x) => `${x.toFixed(0)} %`));
  if ("memory" in panel) {
    add(text.memory, both("memory", (x) => `${Math.round(x / 1024).toLocaleString("en")} KiB`));
  }
  if ("text" in panel) add(`${words.writes} “${panel.prompt}”`, panel.text);
  if ("lines" in panel) add(words.outputs, panel.lines.map((pair) => pair.join("  →  ")).join("\n"));
  return rows;
}

// The colour of a weight, relative to the largest weight of its row.
function colour(weight, most) {
  return Ramp.of("tint").css(Math.round((Math.abs(weight) / most) * LEVELS));
}

function largest(values) {
  return Math.max(1e-9, ...values.map(Math.abs));
}

function thumbnail(weights) {
  const canvas = element("canvas", { width: weights[0].length, height: weights.length });
  const context = canvas.getContext("2d");
  weights.forEach((row, y) => {
    const most = largest(row);
    row.forEach((weight, x) => {
      context.fillStyle = colour(weight, most);
      context.fillRect(x, y, 1, 1);
    });
  });
  return canvas;
}

function enlarged(site, map, reading) {
  // Lengths, unlike weights, are comparable between rows.
  const shared = site.maps.length === 1 ? largest(map.weights.flat()) : null;
  const rows = map.weights.map((row, y) => {
    const most = shared ?? largest(row);
    const cells = row.map((weight, x) => {
      const masked = site.allowed !== null && !site.allowed[y][x];
      const value = masked ? "masked" : weight.toFixed(3);
      const text = `${visible(site.queries[y])} → ${visible(site.keys[x])}: ${value}`;
      const cell = element("td", {
        class: masked ? "masked" : "",
        "aria-label": text,
        onpointerenter: () => (reading.textContent = text),
      });
      if (!masked) cell.style.background = colour(weight, most);
      return cell;
    });
    return element("tr", {}, element("th", { scope: "row" }, visible(site.queries[y])), ...cells);
  });
  const heads = site.keys.map((key) =>
    element("th", { scope: "col" }, element("span", {}, visible(key))),
  );
  const table = element(
    "table",
    {},
    element("thead", {}, element("tr", {}, element("th"), ...heads)),
    element("tbody", {}, ...rows),
  );
  return element("div", { class: "map" }, table);
}

function guesses(found, words) {
  const rows = found.map(([token, guess, p]) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, visible(token)),
      element("td", {}, visible(guess)),
      element("td", {}, `${(100 * p).toFixed(0)} %`),
    ),
  );
  const caption = element("caption", {}, words.guesses);
  return element("div", { class: "guesses" }, element("table", {}, caption, ...rows));
}
