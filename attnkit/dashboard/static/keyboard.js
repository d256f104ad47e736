// Global keys of the page, and their list.

import { element } from "./element.js";
import { COLOURS, MODES, SCALES } from "./state.js";

const KEYS = [
  ["← →", "step back, forward (shift: by a tenth)"],
  ["home end", "first, last step"],
  ["space", "play, pause"],
  ["↑ ↓", "pin the query before, after"],
  ["h H", "next, previous head"],
  ["l L", "next, previous layer"],
  ["1 – 7", "view"],
  ["m", "next of weights, value lengths, rollout"],
  ["s S", "next, previous scale"],
  ["c", "next colours"],
  ["+ − 0", "enlarge, shrink, fit the map"],
  ["/", "filter runs"],
  ["esc", "unpin"],
  ["?", "this list"],
];

export class Keyboard {
  constructor(app) {
    this.app = app;
    this.element = element(
      "dialog",
      {
        class: "help",
        "aria-label": "Keyboard",
        onclick: (event) => event.target === this.element && this.element.close(),
      },
      element("h2", {}, "Keyboard"),
      element(
        "dl",
        {},
        ...KEYS.flatMap(([keys, what]) => [
          element(
            "dt",
            {},
            ...keys.split(" ").map((key) => (key === "–" ? "–" : element("kbd", {}, key))),
          ),
          element("dd", {}, what),
        ]),
      ),
      element(
        "p",
        {},
        "With the focus on the thumbnails, a map or a text, the arrow keys move there.",
      ),
      element("button", { onclick: () => this.element.close() }, "Close"),
    );
    window.addEventListener("keydown", (event) => this.#onKey(event));
  }

  toggleHelp() {
    if (this.element.open) this.element.close();
    else this.element.showModal();
  }

  #onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.target.closest?.("input[type=search], select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (this.element.open && event.key !== "?") return;
    if (event.key === " " && event.target.closest?.("button, input")) return; // the key presses them
    const act = this.#actions(event)[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  #actions({ shiftKey }) {
    const { app } = this;
    const { state } = app;
    const { values } = state;
    const last = app.selection ? app.selection.steps.length - 1 : 0;
    const leap = shiftKey ? Math.max(1, Math.round(last / 10)) : 1;
    const cycle = (list, now, by) => list[(list.indexOf(now) + by + list.length) % list.length];
    const zoom = (by) => state.set({ zoom: Math.max(0, Math.min(6, values.zoom + by)) });
    const views = app.source.views.map((view, i) => [String(i + 1), () => state.set({ view })]);
    return {
      ...Object.fromEntries(views),
      ArrowLeft: () => app.moveStep(-leap),
      ArrowRight: () => app.moveStep(leap),
      Home: () => app.goTo(0),
      End: () => app.goTo(last),
      " ": () => app.toolbar.togglePlay(),
      ArrowUp: () => this.#pin(-1),
      ArrowDown: () => this.#pin(1),
      h: () => this.#choose("head", 1),
      H: () => this.#choose("head", -1),
      l: () => this.#choose("layer", 1),
      L: () => this.#choose("layer", -1),
      m: () => state.set({ mode: cycle(MODES, values.mode, 1) }),
      s: () => state.set({ scale: cycle(SCALES, values.scale, 1) }),
      S: () => state.set({ scale: cycle(SCALES, values.scale, -1) }),
      c: () => state.set({ colours: cycle(COLOURS, values.colours, 1) }),
      "+": () => zoom(1),
      "=": () => zoom(1),
      "-": () => zoom(-1),
      0: () => state.set({ zoom: 0 }),
      "/": () => app.sidebar.filter.focus(),
      Escape: () => state.set({ query: null, key: null }),
      "?": () => this.toggleHelp(),
    };
  }

  // Cycles through the heads, or layers, of the largest visible model.
  #choose(what, by) {
    const size = this.app.stage.sizes()[what];
    if (!size) return;
    const index = (Math.min(this.app.state.values[what], size - 1) + by + size) % size;
    this.app.state.set({ [what]: index });
    this.app.announcer.say(`${what} ${index}`);
  }

  #pin(by) {
    const { query } = this.app.state.values;
    const size = this.app.stage.sizes().query;
    if (!size) return;
    const next =
      query === null ? (by > 0 ? 0 : size - 1) : Math.max(0, Math.min(query + by, size - 1));
    this.app.state.set({ query: next, key: null });
    this.app.announcer.say(this.app.stage.rowText(next));
  }
}
