// The left side: choice of runs, example and site, and the mapping of weights to colours.

import { element, fill, setAttribute } from "./element.js";
import { MODE_NAMES } from "./modes.js";
import { RunList } from "./run_list.js";
import { SCALE_NAMES, scaleOf } from "./scales.js";
import { COLOURED, COLOURS, MODED, SCALED } from "./state.js";
import { tagParts, readable } from "./tokens.js";

export class Sidebar {
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
    this.runs = new RunList(app);
    this.site = element("select", {
      "aria-label": "Example and site",
      onchange: () => this.#chooseSite(),
    });
    this.mode = choice("Maps of", Object.entries(MODE_NAMES), (mode) => state.set({ mode }));
    this.scale = choice("Scale", Object.entries(SCALE_NAMES), (scale) => state.set({ scale }));
    this.colours = choice(
      "Colours",
      COLOURS.map((name) => [name, title(name)]),
      (colours) => state.set({ colours }),
    );
    this.element = element(
      "aside",
      { class: "sidebar", "aria-label": "Choices" },
      app.source.isLive ? group("Runs", this.filter, this.runs.element) : null,
      group("Example and site", this.site),
      group("Maps of", this.mode),
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
    const pattern = compile(values.filter);
    setAttribute(this.filter, "aria-invalid", pattern === null);
    this.runs.update(pattern, selection.runs);
    this.#listSites(selection);
    this.mode.value = values.mode;
    this.mode.disabled = !MODED.includes(values.view);
    this.scale.value = scaleOf(values);
    this.scale.disabled = !SCALED.includes(values.view);
    for (const option of this.scale.options)
      option.disabled = scaleOf({ ...values, scale: option.value }) !== option.value;
    this.colours.value = values.colours;
    this.colours.disabled = !COLOURED.includes(values.view);
  }

  #listSites({ sites, site }) {
    const named = (tag) => {
      const parts = tagParts(tag);
      return [tag, readable(parts.example ? `${parts.site} (${parts.example})` : parts.site)];
    };
    fill(this.site, sites.map(named));
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

// Null for an incomplete expression, which filters nothing.
function compile(filter) {
  try {
    return new RegExp(filter, "i");
  } catch {
    return null;
  }
}
