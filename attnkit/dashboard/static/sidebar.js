// The left side: which runs, which example and site, and how weights become colours.

import { commonFolder, splitSeed } from "./catalogue.js";
import { element, setAttribute } from "./element.js";
import { runColour } from "./palettes.js";
import { SCALE_NAMES, scaleOf } from "./scales.js";
import { COLOURS } from "./state.js";
import { tagParts, visible } from "./tokens.js";

export class Sidebar {
  #listed = "";
  #folded = new Set();
  #sites = "";

  constructor(app) {
    this.app = app;
    const { state } = app;
    this.filter = element("input", {
      type: "search",
      placeholder: "Filter runs (regex)",
      "aria-label": "Filter runs by a regular expression",
      spellcheck: "false",
      oninput: () => state.set({ filter: this.filter.value }),
    });
    this.runs = element("div", { class: "runs", role: "group", "aria-label": "Runs" });
    this.site = element("select", {
      "aria-label": "Example and site",
      onchange: () => this.#chooseSite(),
    });
    this.scale = choice("Scale", Object.entries(SCALE_NAMES), (scale) => state.set({ scale }));
    this.colours = choice(
      "Colours",
      COLOURS.map((name) => [name, title(name)]),
      (colours) => state.set({ colours }),
    );
    this.element = element(
      "aside",
      { class: "sidebar", "aria-label": "Choices" },
      group("Runs", this.filter, this.runs),
      group("Example and site", this.site),
      group("Scale", this.scale),
      group("Colours", this.colours),
      element(
        "button",
        { class: "quiet keys", onclick: () => app.keyboard.toggleHelp() },
        element("kbd", {}, "?"),
        " Keyboard",
      ),
    );
  }

  update(values, selection) {
    if (document.activeElement !== this.filter) this.filter.value = values.filter;
    this.#listRuns(values, selection);
    this.#listSites(selection);
    this.scale.value = scaleOf(values);
    for (const option of this.scale.options)
      option.disabled = scaleOf({ ...values, scale: option.value }) !== option.value;
    this.colours.value = values.colours;
  }

  #listRuns({ filter }, { runs }) {
    const { catalogue } = this.app;
    const pattern = compile(filter);
    setAttribute(this.filter, "aria-invalid", pattern === null);
    const matching = catalogue.runs.filter((run) => pattern?.test(run) ?? true);
    const theme = document.documentElement.dataset.theme;
    const listed = JSON.stringify([matching, runs, [...this.#folded], theme, catalogue.all]);
    if (listed === this.#listed) return;
    this.#listed = listed;
    const focused = document.activeElement?.dataset?.key;
    const groups = byVariant(matching);
    const without = (catalogue.all ?? []).length - catalogue.runs.length;
    this.runs.replaceChildren(
      ...[...groups].flatMap(([variant, members]) => this.#variant(variant, members, runs)),
      matching.length || !catalogue.runs.length
        ? ""
        : element("p", { class: "note" }, "No run matches."),
      without ? element("p", { class: "note" }, `${without} more without attention maps`) : "",
    );
    if (focused)
      [...this.runs.querySelectorAll("[data-key]")]
        .find((one) => one.dataset.key === focused)
        ?.focus();
  }

  #variant(variant, members, chosen) {
    const name = visible(variant.slice(commonFolder(this.app.catalogue.all).length));
    if (members.length === 1)
      return [this.#run(members[0], name, chosen, splitSeed(members[0])[1])];
    const folded = this.#folded.has(variant);
    const fold = element(
      "button",
      {
        class: "fold",
        "aria-expanded": !folded,
        "data-key": `fold ${variant}`,
        onclick: () => {
          if (!this.#folded.delete(variant)) this.#folded.add(variant);
          this.app.state.refresh();
        },
      },
      element("span", { class: "path", title: visible(variant) }, name),
      element("span", { class: "count" }, `${members.length} seeds`),
    );
    const shown = folded ? members.filter((run) => chosen.includes(run)) : members;
    const seeds = shown.map((run) => this.#run(run, splitSeed(run)[1], chosen));
    return [fold, element("div", { class: "seeds" }, ...seeds)];
  }

  #run(run, name, chosen, seed = "") {
    const box = element("input", {
      type: "checkbox",
      "data-key": run,
      onchange: () => this.#toggle(run),
    });
    box.checked = chosen.includes(run);
    const dot = element("span", { class: "dot" });
    dot.style.background = runColour(this.app.catalogue, run);
    const only = element(
      "button",
      {
        class: "quiet only",
        "data-key": `only ${run}`,
        title: `Only ${visible(run)}`,
        onclick: () => this.app.state.set({ runs: [run] }),
      },
      "only",
    );
    const label = element(
      "label",
      { title: visible(run) },
      box,
      dot,
      element("span", { class: "path" }, name),
      seed ? element("span", { class: "count" }, seed) : null,
    );
    return element("div", { class: "run" }, label, only);
  }

  #toggle(run) {
    const { runs } = this.app.selection;
    const chosen = runs.includes(run) ? runs.filter((one) => one !== run) : [...runs, run];
    const order = this.app.catalogue.runs;
    this.app.state.set({ runs: chosen.sort((a, b) => order.indexOf(a) - order.indexOf(b)) });
  }

  #listSites({ sites, site }) {
    const listed = JSON.stringify(sites);
    if (listed !== this.#sites) {
      this.#sites = listed;
      this.site.replaceChildren(
        ...sites.map((tag) => {
          const parts = tagParts(tag);
          const name = parts.example ? `${parts.site} (${parts.example})` : parts.site;
          return element("option", { value: tag }, visible(name).replaceAll("␣", " "));
        }),
      );
    }
    this.site.value = site ?? "";
    this.site.disabled = sites.length < 2;
  }

  #chooseSite() {
    this.app.state.set({ site: this.site.value, query: null, key: null });
  }
}

function choice(label, entries, choose) {
  const options = entries.map(([value, name]) => element("option", { value }, name));
  const select = element(
    "select",
    { "aria-label": label, onchange: () => choose(select.value) },
    ...options,
  );
  return select;
}

function group(name, ...parts) {
  return element("section", {}, element("h2", {}, name), ...parts);
}

function title(name) {
  return name[0].toUpperCase() + name.slice(1);
}

function byVariant(runs) {
  const groups = new Map();
  for (const run of runs)
    groups.set(splitSeed(run)[0], [...(groups.get(splitSeed(run)[0]) ?? []), run]);
  return groups;
}

// A half-typed expression is no error: it just filters nothing yet.
function compile(filter) {
  try {
    return new RegExp(filter, "i");
  } catch {
    return null;
  }
}
