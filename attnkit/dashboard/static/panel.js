// The panel of one run: title, step, and the selected view of its maps.

import { element, setAttribute, setText } from "./element.js";
import { fileName, saveCsv, savePng } from "./export.js";
import { facts } from "./facts.js";
import { runColour } from "./palettes.js";
import { drawing } from "./selection.js";
import { HeadsView } from "./view_heads.js";
import { LinesView } from "./view_lines.js";
import { MatrixView } from "./view_matrix.js";
import { TokensView } from "./view_tokens.js";
import { readable, stepName } from "./tokens.js";

const VIEWS = { matrix: MatrixView, lines: LinesView, tokens: TokensView, heads: HeadsView };

export class Panel {
  #views = {};
  #latest = 0;
  #shown = null;

  constructor(app, run) {
    this.app = app;
    this.run = run;
    this.frame = new PanelFrame(readable(run), () => this.#shown);
    this.element = this.frame.element;
    this.element.dataset.run = run;
  }

  // The drawn data; null if there is none.
  get model() {
    return this.#shown?.model ?? null;
  }

  peaks() {
    return this.#shown?.view.peaks?.() ?? {};
  }

  // Passes the size of the largest model on the page to the view.
  align(sizes) {
    this.#shown?.view.align?.(sizes);
  }

  forget() {
    this.#views = {};
  }

  async update({ values, selection, series, step }) {
    const latest = ++this.#latest;
    this.frame.colour(runColour(this.app.catalogue, this.run));
    if (!series) {
      this.#shown = null;
      this.frame.say("", [], this.#missing(selection));
      return;
    }
    const found = this.app.cache.peek(series, step) ?? (await this.#fetch(series, step, latest));
    if (latest !== this.#latest) return;
    this.frame.busy(false);
    if (found.error) {
      this.#shown = null;
      this.frame.say(stepText(step, selection.step), [], found.error.message);
      return;
    }
    const model = drawing(values, found.record, { run: this.run, series, step, selection });
    this.frame.say(stepText(step, selection.step), facts(model), null);
    const view = this.#view(values.view);
    this.frame.show(view.element);
    await view.update(model);
    this.#shown = { view, model };
  }

  #fetch(series, step, latest) {
    const late = setTimeout(() => latest === this.#latest && this.frame.busy(true), 150);
    return this.app.cache.get(series, step).finally(() => clearTimeout(late));
  }

  #view(name) {
    this.#views[name] ??= new VIEWS[name](this.app);
    return this.#views[name];
  }

  #missing({ site }) {
    const others = this.app.catalogue
      .sites([this.run])
      .map((tag) => tag.replace(/^attention\//, ""));
    return `This run has no maps of ${site.replace(/^attention\//, "")}. It has: ${others.join(", ")}.`;
  }
}

function stepText(step, wanted) {
  if (step === wanted) return stepName(step);
  return `${stepName(step)} (nearest to ${wanted.toLocaleString("en")})`;
}

// The frame of a run or a difference: title, step, facts, export, then the view.
export class PanelFrame {
  constructor(title, shown) {
    this.dot = element("span", { class: "dot", "aria-hidden": "true" });
    this.title = element("h2", { title }, title);
    this.step = element("span", { class: "step" });
    this.facts = element("p", { class: "facts" });
    this.problem = element("p", { class: "problem", hidden: true });
    this.body = element("div", { class: "body" });
    const save = (label, hint, act) =>
      element(
        "button",
        { class: "quiet", title: hint, onclick: () => shown() && act(shown()) },
        label,
      );
    this.element = element(
      "article",
      { class: "panel", "aria-label": title },
      element(
        "header",
        {},
        element("div", { class: "name" }, this.dot, element("div", {}, this.title, " ", this.step)),
        this.facts,
        element(
          "div",
          { class: "save", "data-noexport": "true" },
          save("PNG", "Save this panel as a picture", () => savePng(this.element, this.#file())),
          save("CSV", "Save the numbers of this panel", async ({ view, model }) =>
            saveCsv(await view.table(model), this.#file()),
          ),
        ),
      ),
      this.problem,
      this.body,
    );
  }

  #file() {
    const step = this.step.textContent.replaceAll(",", "").match(/\d+/)?.[0] ?? "";
    return fileName("attention", this.element.dataset.run ?? "difference", `step${step}`);
  }

  colour(colour) {
    this.dot.style.background = colour;
  }

  busy(isBusy) {
    setAttribute(this.element, "aria-busy", isBusy);
  }

  say(step, facts, problem) {
    this.busy(false);
    setText(this.step, step);
    setText(this.facts, facts.join(" · "));
    setText(this.problem, problem ?? "");
    this.problem.hidden = !problem;
    this.body.hidden = Boolean(problem);
  }

  show(view) {
    if (this.body.firstChild !== view) this.body.replaceChildren(view);
  }
}
