// The page: fetches the data of the current state, and passes it to its parts.

import { Announcer } from "./announce.js";
import { CostsPlot } from "./costs_plot.js";
import { CurvesPlot } from "./curves_plot.js";
import { element, setAttribute, setText } from "./element.js";
import { isShown, onReload } from "./host.js";
import { RunsList } from "./runs_list.js";
import { ADDRESS, INITIAL } from "./state.js";
import { Linked } from "./store.js";
import { Table } from "./table.js";
import { Toolbar } from "./toolbar.js";
import { chosen } from "./variants.js";

const POLL = { false: 3_000, true: 15_000 }; // milliseconds; true: the study is complete

export class AblationsPage {
  #requested = {}; // part -> the parameters of its last request

  constructor(source) {
    this.source = source;
    this.linked = new Linked(ADDRESS, INITIAL);
    this.state = this.linked.store;
    this.studies = null;
    this.view = null;
    this.curves = null;
    this.announcer = new Announcer();
    this.toolbar = new Toolbar(this);
    this.table = new Table(this);
    this.curvesPlot = new CurvesPlot(this);
    this.costsPlot = new CostsPlot(this);
    this.runs = new RunsList(this);
    this.alert = element("p", { class: "alert", role: "alert", hidden: true });
    this.problem = element("p", { class: "problem", hidden: true });
    this.notes = element("ul", { class: "notes", "aria-label": "Notes on the table" });
    this.empty = element("div", { class: "empty", hidden: true });
    this.content = element(
      "div",
      { class: "content" },
      this.problem,
      this.table.element,
      element("div", { class: "plots" }, this.curvesPlot.element, this.costsPlot.element),
      this.runs.element,
      this.notes,
    );
    this.element = element(
      "main",
      { class: "ablations", "data-state": "busy" },
      this.toolbar.element,
      this.alert,
      this.empty,
      this.content,
      this.announcer.element,
    );
  }

  async start() {
    this.state.listen((values) => this.update(values));
    window.addEventListener("themechange", () => this.state.refresh());
    this.linked.start();
    if (this.source.isLive) onReload(() => this.reload());
    await this.#poll();
  }

  async #poll() {
    const begin = performance.now();
    if (isShown() || !this.studies) await this.reload();
    if (!this.source.isLive) return;
    const pause = POLL[Boolean(this.view?.complete)];
    setTimeout(() => this.#poll(), Math.max(pause, 20 * (performance.now() - begin)));
  }

  // Fetches everything again.
  async reload() {
    this.#requested = {};
    await this.#guarded(async () => {
      this.studies = await this.source.studies();
    });
    await this.update(this.state.values);
  }

  async update(values) {
    this.element.dataset.state = "busy";
    const study = this.#study(values);
    this.#show(study);
    if (!study) {
      if (this.studies) this.element.dataset.state = "ready";
      return;
    }
    const { base, metric, tag, seeds } = values;
    const choices = { study, base, metric };
    const view = this.#fetch("view", choices, (request) => this.source.study(request));
    if (this.curves) {
      await view; // the table first: most choices do not change the curves
      if (this.state.values !== values) return; // a newer choice continues
    }
    const parameters = { study, metric, tag, seeds };
    const curves = this.#fetch("curves", parameters, (request) => this.source.curves(request));
    await Promise.all([view, curves]);
    this.#draw();
    const newest = this.state.values;
    const isNewest = ["study", "base", "metric", "tag", "seeds"].every(
      (key) => newest[key] === values[key],
    );
    if (isNewest && this.view && this.curves) this.element.dataset.state = "ready";
  }

  #study({ study }) {
    const ids = (this.studies ?? []).map((one) => one.id);
    return ids.includes(study) ? study : (ids[0] ?? null);
  }

  // Fetches a part, unless it was fetched with the same parameters; draws it if it has changed.
  async #fetch(part, parameters, fetch) {
    const request = JSON.stringify(parameters);
    if (this.#requested[part] === request) return;
    this.#requested[part] = request;
    await this.#guarded(async () => {
      const answer = await fetch(parameters);
      if (this.#requested[part] !== request) return; // there is a newer request
      if (this[part] === answer) return;
      this[part] = answer;
      this.#draw();
    });
  }

  async #guarded(act) {
    try {
      await act();
      this.alert.hidden = true;
    } catch (error) {
      setText(this.alert, error.message);
      this.alert.hidden = false;
      this.#requested = {};
    }
  }

  #show(study) {
    this.toolbar.list(this.studies ?? [], study);
    this.content.hidden = !study;
    this.empty.hidden = Boolean(study) || !this.studies;
    if (this.empty.hidden || this.empty.firstChild) return;
    this.empty.append(
      element("h2", {}, "No study here yet"),
      element("p", {}, "There are no runs of attnkit in TensorBoard's log directory. Start one:"),
      element("pre", {}, "attnkit ablate quickstart model.attention.name=multi_head,linear --seeds 3"),
      element("p", {}, "This page looks again every few seconds."),
    );
  }

  #draw() {
    const { values } = this.state;
    const { view, curves } = this;
    if (!view) return;
    const shown = chosen(view, values);
    setAttribute(this.element, "aria-busy", false);
    setText(this.problem, view.problem ?? "");
    this.problem.hidden = !view.problem;
    this.toolbar.update(values, view, shown);
    this.table.update(values, view, shown);
    this.costsPlot.update(values, view, shown);
    if (curves) this.curvesPlot.update(values, view, curves, shown);
    this.runs.update(view);
    const notes = view.table?.notes ?? [];
    if (this.notes.dataset.of !== JSON.stringify(notes)) {
      this.notes.dataset.of = JSON.stringify(notes);
      this.notes.replaceChildren(...notes.map((note) => element("li", {}, note)));
    }
  }
}
