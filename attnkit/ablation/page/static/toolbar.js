// The controls above the table: study, metric, base, filters, exports and maps. The panels of plots
// use some of its parts.

import { element, fill, setAttribute, setText } from "./element.js";
import { fileName, saveCsv, savePng, saveText } from "./export.js";
import { goTo } from "./host.js";
import { KINDS, ADDRESS } from "./state.js";
import { compile, runsOfOneSeed } from "./variants.js";

const MOST_MAPS = 6; // panels side by side

export class Toolbar {
  constructor(app) {
    this.app = app;
    const { state } = app;
    this.study = select("Study", (study) => state.set({ ...RESET, study }));
    this.metric = select("Metric", (metric) => state.set({ metric, tag: null }));
    this.base = select("Base", (base) => state.set({ base }));
    this.filter = element("input", {
      type: "search",
      placeholder: "Filter variants (regex)",
      "aria-label": "Filter variants by a regular expression",
      spellcheck: "false",
      oninput: () => state.set({ filter: this.filter.value, page: 0 }),
      onkeydown: (event) => event.key === "Escape" && this.filter.blur(),
    });
    this.kind = select("Show", (kind) => state.set({ kind, page: 0 }));
    fill(this.kind.list, KINDS.map((kind) => [kind, kind]));
    this.status = element("span", { class: "status", role: "status" });
    this.maps = element(
      "button",
      { class: "maps", onclick: () => this.openMaps(this.shown.drawn, "matrix") },
      "Attention maps",
    );
    const forms = { CSV: "csv", LaTeX: "tex", Markdown: "md" };
    this.element = element(
      "header",
      { class: "toolbar" },
      this.study.element,
      this.metric.element,
      this.base.element,
      element("label", { class: "filter" }, "Filter", this.filter),
      this.kind.element,
      this.status,
      app.source.isLive ? this.maps : null,
      element(
        "span",
        { class: "save", role: "group", "aria-label": "Save the table" },
        element(
          "button",
          { class: "quiet", title: "Save the page as a picture", onclick: () => this.#picture() },
          "PNG",
        ),
        ...Object.entries(forms).map(([name, form]) => {
          const title = `Save the table as ${name}`;
          const onclick = () => this.#save(form);
          return element("button", { class: "quiet", title, onclick }, name);
        }),
      ),
    );
    document.addEventListener("keydown", (event) => this.#onKey(event));
  }

  list(studies, study) {
    fill(
      this.study.list,
      studies.map(({ id, name, counts }) => [id, `${name}${runningText(counts)}`]),
    );
    this.study.list.value = study ?? "";
    this.study.element.hidden = studies.length < 2 && !this.app.source.isLive;
  }

  update(values, view, shown) {
    this.shown = shown;
    const { table } = view;
    fill(
      this.metric.list,
      Object.keys(view.metrics).map((name) => [name, name]),
    );
    this.metric.list.value = values.metric ?? table?.metric ?? "";
    fill(
      this.base.list,
      shown.all
        .filter(({ row }) => row && row.verdict !== "not decided")
        .map(({ name, label }) => [name, label]),
    );
    this.base.list.value = table?.base ?? "";
    for (const one of [this.metric, this.base])
      one.list.disabled = !this.app.source.isLive || one.list.options.length < 2;
    if (document.activeElement !== this.filter) this.filter.value = values.filter;
    setAttribute(this.filter, "aria-invalid", compile(values.filter) === null);
    this.kind.list.value = values.kind;
    setText(this.status, statusOf(view));
    const { drawn } = shown;
    const fits = drawn.length > 0 && drawn.length <= MOST_MAPS;
    this.maps.disabled = !fits;
    this.maps.title = fits
      ? "The maps of the chosen variants side by side, of one seed"
      : `Choose at most ${MOST_MAPS} variants in the table`;
  }

  // Opens the Attention page with some variants.
  openMaps(variants, view) {
    const runs = runsOfOneSeed(variants);
    if (!runs.length) return;
    const part = (key, value) => `p.attention.${key}=${encodeURIComponent(value)}`;
    const pair = view === "difference" ? [part("a", runs[1]), part("b", runs[0])] : [];
    const from = ADDRESS.toHash(this.app.state.values);
    const parts = [...runs.map((run) => part("run", run)), part("view", view), ...pair];
    goTo(["attention", ...parts, part("from", from)].join("&"));
  }

  async #save(form) {
    const { app } = this;
    const { base, metric } = app.state.values;
    try {
      const text = await app.source.export({ study: app.view.id, base, metric }, form);
      saveText(text, app.source.forms[form], `${fileName("ablation", app.view.id)}.${form}`);
    } catch (error) {
      app.announcer.say(error.message);
      setText(app.alert, error.message);
      app.alert.hidden = false;
    }
  }

  #picture() {
    savePng(this.app.content, fileName("ablation", this.app.view.id));
  }

  #onKey(event) {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest?.("input[type=search], select, textarea")) return;
    event.preventDefault();
    this.filter.focus();
  }
}

const RESET = { base: null, metric: null, tag: null, cost: null, off: [], sort: null, page: 0 };

// "6 of 9 runs finished, 2 running"; empty without runs.
function statusOf({ variants, complete, tuning }) {
  const counts = {};
  for (const { runs } of variants)
    for (const { state } of runs) counts[state] = (counts[state] ?? 0) + 1;
  const all = Object.values(counts).reduce((sum, one) => sum + one, 0);
  if (!all) return "";
  const { finished = 0, halved = 0 } = counts;
  const others = ["running", "failed", "stopped", "queued"].filter((state) => counts[state]);
  const of = complete ? `${finished}` : `${finished} of ${all}`;
  const before = tuning ? `tuning: ${tuning.ended} of ${tuning.total} runs finished; then: ` : "";
  return [
    `${before}${of} ${of === "1" ? "run" : "runs"} finished`,
    ...others.map((state) => `${counts[state]} ${state}`),
    ...(halved ? [`${halved} stopped by halving`] : []),
  ].join(", ");
}

function runningText({ running = 0 }) {
  return running ? ` (${running} running)` : "";
}

export function select(label, choose) {
  const list = element("select", { "aria-label": label, onchange: () => choose(list.value) });
  return { list, element: element("label", {}, label, list) };
}

// A plot with its title, controls, buttons that save it, and a line that describes a point.
export function plotPanel(label, { plot, controls, file, table }) {
  const title = element("h2");
  const read = element("p", { class: "read", "aria-live": "polite" });
  const save = (name, hint, act) =>
    element("button", { class: "quiet", title: hint, onclick: () => act(file()) }, name);
  const panel = element(
    "section",
    { class: "panel", "aria-label": label },
    element(
      "div",
      { class: "head" },
      title,
      element(
        "span",
        { class: "controls", "data-noexport": "true" },
        ...controls,
        save("PNG", "Save the plot as a picture", (name) => savePng(panel, name)),
        save("SVG", "Save the plot as a drawing", (name) =>
          saveText(plot.svg(), "image/svg+xml", `${name}.svg`),
        ),
        table
          ? save("CSV", "Save the numbers of the plot", (name) => saveCsv(table(), name))
          : null,
      ),
    ),
    plot.element,
    read,
  );
  return { title, read, element: panel };
}
