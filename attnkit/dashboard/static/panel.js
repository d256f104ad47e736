// The panel of one run: title, step, and the selected view of its maps.

import { clinicOf, examination, withoutClinic } from "./clinic.js";
import { element, setAttribute, setText } from "./element.js";
import { fileName, saveCsv, savePng } from "./export.js";
import { facts } from "./facts.js";
import { inMode } from "./modes.js";
import { runColour } from "./palettes.js";
import { nearestStep } from "./catalogue.js";
import { drawing } from "./selection.js";
import { ClinicView } from "./view_clinic.js";
import { ContributionsView, WITHOUT_CONTRIBUTIONS } from "./view_contributions.js";
import { HeadsView } from "./view_heads.js";
import { LinesView } from "./view_lines.js";
import { MatrixView } from "./view_matrix.js";
import { TokensView } from "./view_tokens.js";
import { MODED } from "./state.js";
import { readable, stepName, tagParts } from "./tokens.js";

const VIEWS = {
  matrix: MatrixView,
  lines: LinesView,
  tokens: TokensView,
  heads: HeadsView,
  clinic: ClinicView,
  contributions: ContributionsView,
};

export class Panel {
  #views = {};
  #latest = 0;
  #shown = null;
  #cached = {}; // a record in a mode

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

  // Passes the sizes of the largest model on the page to the view.
  align(sizes) {
    this.#shown?.view.align?.(sizes);
  }

  forget() {
    this.#views = {};
  }

  async update({ values, selection, series, step }) {
    const latest = ++this.#latest;
    this.frame.colour(runColour(this.app.catalogue, this.run));
    if (values.view === "clinic") return this.#drawClinic(values, selection, latest);
    if (values.view === "contributions") return this.#drawContributions(values, selection, latest);
    if (!series) {
      this.#refuse("", this.#missing(selection));
      return;
    }
    const found = this.app.cache.peek(series, step) ?? (await this.#fetch(series, step, latest));
    if (latest !== this.#latest) return;
    this.frame.busy(false);
    if (found.error) {
      this.#refuse(stepText(step, selection.step), found.error.message);
      return;
    }
    const { record, problem } = this.#inMode(found.record, values, series.tag);
    if (problem) {
      this.#refuse(stepText(step, selection.step), problem);
      return;
    }
    const model = drawing(values, record, { run: this.run, series, step, selection });
    this.frame.say(stepText(step, selection.step), facts(model), null);
    await this.#show(values.view, model);
  }

  // The last record is cached: a change of head or scale does not affect it.
  #inMode(record, values, tag) {
    const mode = MODED.includes(values.view) ? values.mode : "weights";
    if (this.#cached.record !== record || this.#cached.mode !== mode) {
      const sites = this.app.catalogue.sites([this.run]);
      this.#cached = { record, mode, found: inMode(record, mode, tag, sites) };
    }
    return this.#cached.found;
  }

  // The clinic needs no record.
  async #drawClinic(values, selection, latest) {
    const file = this.app.catalogue.file("clinic", this.run);
    if (!file) {
      this.#refuse("", withoutClinic(this.run));
      return;
    }
    const answer = await this.#answer(file, latest, "clinic", this.run);
    if (!answer) return;
    const site = siteOf(selection.site);
    const found = clinicOf(answer, site);
    if (!found) {
      const others = [...new Set(answer.heads.map((head) => head.site))].map(readable);
      this.#refuse("", `This run has no heads of ${readable(site)}. It has: ${others.join(", ")}.`);
      return;
    }
    const model = examination(values, found, this.run, selection);
    const count = `${found.steps.length} moments of the head clinic`;
    this.frame.say(stepText(model.step, selection.step), [count], null);
    await this.#show("clinic", model);
  }

  async #drawContributions(values, selection, latest) {
    const file = this.app.catalogue.file("contributions", this.run);
    if (!file) {
      this.#refuse("", WITHOUT_CONTRIBUTIONS);
      return;
    }
    const step = nearestStep(file.steps, selection.step);
    const moment = await this.#answer(file, latest, "contributions", this.run, step ?? 0);
    if (!moment) return;
    const count = `${moment.parts.length} parts, ${moment.tokens.length} tokens`;
    this.frame.say(stepText(step, selection.step), [count], null);
    await this.#show("contributions", { run: this.run, values, moment, step });
  }

  // The source's answer from a file of the run; null if it fails, or is outdated.
  async #answer(file, latest, route, ...parameters) {
    const fetch = () => this.app.source[route](...parameters);
    try {
      const address = JSON.stringify([route, ...parameters]);
      const answer = await this.app.answers.get(address, file.written, fetch);
      return latest === this.#latest ? answer : null;
    } catch (error) {
      if (latest === this.#latest) this.#refuse("", error.message);
      return null;
    }
  }

  async #show(name, model) {
    const view = this.#view(name);
    this.frame.show(view.element);
    await view.update(model);
    this.#shown = { view, model };
  }

  #refuse(step, reason) {
    this.#shown = null;
    this.frame.say(step, [], reason);
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
    if (!this.app.catalogue.sites([this.run]).length) {
      return "This run has no attention maps. A recipe logs them with logging: {attention_maps: 12}.";
    }
    const others = this.app.catalogue
      .sites([this.run])
      .map((tag) => tag.replace(/^attention\//, ""));
    return `This run has no maps of ${site.replace(/^attention\//, "")}. It has: ${others.join(", ")}.`;
  }
}

function siteOf(tag) {
  return tag && tagParts(tag).site;
}

function stepText(step, requested) {
  if (step === requested) return stepName(step);
  return `${stepName(step)} (nearest to ${requested.toLocaleString("en")})`;
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
