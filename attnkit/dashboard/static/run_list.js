// The list of runs: by folder, one line per variant, with its seeds collapsed.

import { splitRun } from "./catalogue.js";
import { element } from "./element.js";
import { runColour } from "./palettes.js";
import { readable } from "./tokens.js";

export class RunList {
  #listed = "";
  #expanded = new Set();

  constructor(app) {
    this.app = app;
    this.element = element("div", { class: "runs", role: "group", "aria-label": "Runs" });
  }

  // Lists the runs that match `pattern`; null: all.
  update(pattern, chosen) {
    const { catalogue } = this.app;
    const matching = catalogue.runs.filter((run) => pattern?.test(run) ?? true);
    const { theme } = document.documentElement.dataset;
    const listed = JSON.stringify([matching, chosen, [...this.#expanded], theme, catalogue.all]);
    if (listed === this.#listed) return;
    this.#listed = listed;
    this.chosen = chosen;
    const focused = document.activeElement?.dataset?.key;
    const folders = groupBy(matching, (run) => splitRun(run).folder);
    const without = (catalogue.all ?? []).length - catalogue.runs.length;
    this.element.replaceChildren(
      ...[...folders]
        .sort(([a], [b]) => Boolean(a) - Boolean(b))
        .flatMap(([folder, runs]) => [
          folders.size > 1 && folder ? element("h3", {}, readable(folder)) : "",
          ...this.#variants(runs),
        ]),
      matching.length || !catalogue.runs.length ? "" : note("No run matches."),
      without ? note(`${without} more without attention maps`) : "",
    );
    if (!focused) return;
    const all = [...this.element.querySelectorAll("[data-key]")];
    all.find((one) => one.dataset.key === focused)?.focus();
  }

  #variants(runs) {
    return [...groupBy(runs, (run) => splitRun(run).variant)].flatMap(([variant, members]) => {
      const { seed } = splitRun(members[0]);
      if (members.length === 1) {
        return [this.#line(variant, members, element("span", { class: "count" }, seed))];
      }
      const id = JSON.stringify([splitRun(members[0]).folder, variant]);
      const line = this.#line(variant, members, this.#fold(id, variant, members));
      if (!this.#expanded.has(id)) return [line];
      const seeds = members.map((run) => this.#line(splitRun(run).seed, [run], null));
      return [line, element("div", { class: "seeds" }, ...seeds)];
    });
  }

  #fold(id, variant, members) {
    const count = members.filter((run) => this.chosen.includes(run)).length;
    const label = count ? `${count} of ${members.length}` : `${members.length} seeds`;
    return element(
      "button",
      {
        class: "count fold",
        "aria-expanded": this.#expanded.has(id),
        "aria-label": `${readable(variant)}: ${count} of ${members.length} seeds`,
        "data-key": `fold ${id}`,
        onclick: () => {
          if (!this.#expanded.delete(id)) this.#expanded.add(id);
          this.app.state.refresh();
        },
      },
      label,
    );
  }

  // One run, or all seeds of a variant.
  #line(name, runs, end) {
    const chosen = runs.filter((run) => this.chosen.includes(run)).length;
    const key = JSON.stringify(runs);
    const box = element("input", {
      type: "checkbox",
      "data-key": key,
      onchange: () => this.#toggle(runs, box.checked),
    });
    box.checked = chosen === runs.length;
    box.indeterminate = chosen > 0 && !box.checked;
    const only = element(
      "button",
      {
        class: "quiet only",
        "data-key": `only ${key}`,
        "aria-label": `only ${readable(name)}`,
        title: "Show only these",
        onclick: () => this.app.state.set({ run: runs }),
      },
      "only",
    );
    const path = element("span", { class: "path" }, readable(name));
    const title = runs.map(readable).join("\n");
    return element(
      "div",
      { class: "run" },
      element("label", { title }, box, this.#dot(runs), path),
      element("span", { class: "end" }, only, end),
    );
  }

  // The run's colour; of several seeds, a slice each.
  #dot(runs) {
    const dot = element("span", { class: "dot" });
    const part = 100 / runs.length;
    const slices = runs.map((run, i) => {
      const colour = runColour(this.app.catalogue, run);
      return `${colour} ${i * part}% ${(i + 1) * part}%`;
    });
    dot.style.background = `conic-gradient(${slices.join(", ")})`;
    return dot;
  }

  #toggle(runs, isOn) {
    const others = this.app.selection.runs.filter((run) => !runs.includes(run));
    const chosen = new Set(isOn ? [...others, ...runs] : others);
    this.app.state.set({ run: this.app.catalogue.runs.filter((run) => chosen.has(run)) });
  }
}

function note(text) {
  return element("p", { class: "note" }, text);
}

function groupBy(runs, keyOf) {
  const groups = new Map();
  for (const run of runs) groups.set(keyOf(run), [...(groups.get(keyOf(run)) ?? []), run]);
  return groups;
}
