// Above the panels: the views, and the steps of training.

import { element, setAttribute, setText } from "./element.js";
import { goTo } from "./host.js";
import { stepName } from "./tokens.js";

const FRAME = 220; // milliseconds per step while playing

export class Toolbar {
  #timer = 0;

  constructor(app) {
    this.app = app;
    this.tabs = app.source.views.map((view, i) =>
      element(
        "button",
        {
          role: "tab",
          "data-view": view,
          title: `${title(view)} (${i + 1})`,
          onclick: () => app.state.set({ view }),
        },
        title(view),
      ),
    );
    this.play = element("button", { class: "play", onclick: () => this.togglePlay() });
    this.slider = element("input", {
      type: "range",
      min: 0,
      step: 1,
      "aria-label": "Training step",
      oninput: () => app.goTo(Number(this.slider.value)),
    });
    this.step = element("output");
    this.place = element("span", { class: "place" });
    this.back = element(
      "button",
      { class: "quiet back", title: "Back to the study", hidden: true, onclick: () => goTo(this.from) },
      "← Ablations",
    );
    this.element = element(
      "div",
      { class: "toolbar" },
      this.back,
      element(
        "div",
        {
          class: "tabs",
          role: "tablist",
          "aria-label": "Views",
          onkeydown: (event) => this.#move(event),
        },
        ...this.tabs,
      ),
      element("div", { class: "timeline", hidden: !app.source.isLive }, this.play, this.slider, this.step, this.place),
    );
    this.#showPlaying();
  }

  update({ view, from }, { steps, step, index }) {
    this.view = view;
    this.from = from;
    this.back.hidden = !from?.startsWith("ablations");
    for (const tab of this.tabs) {
      const chosen = tab.dataset.view === view;
      setAttribute(tab, "aria-selected", chosen);
      tab.tabIndex = chosen ? 0 : -1;
    }
    this.slider.max = Math.max(0, steps.length - 1);
    this.slider.value = index;
    this.slider.disabled = this.play.disabled = steps.length < 2;
    const part = steps.length > 1 ? index / (steps.length - 1) : 0;
    this.slider.style.setProperty("--part", `${100 * part}%`);
    setAttribute(this.slider, "aria-valuetext", `step ${step}`);
    setText(this.step, step === null ? "" : stepName(step));
    setText(this.place, steps.length ? `${index + 1} of ${steps.length}` : "");
  }

  // Plays from here, or from the start after the last step; waits until each step is drawn.
  togglePlay() {
    if (this.#timer) return this.stop();
    const { steps, index } = this.app.selection;
    if (steps.length < 2) return;
    if (index === steps.length - 1) this.app.goTo(0);
    this.#timer = setInterval(() => {
      if (this.app.stage.element.dataset.state !== "ready") return;
      const { selection } = this.app;
      if (selection.index >= selection.steps.length - 1) this.stop();
      else this.app.moveStep(1);
    }, FRAME);
    this.#showPlaying();
  }

  stop() {
    clearInterval(this.#timer);
    this.#timer = 0;
    this.#showPlaying();
  }

  #showPlaying() {
    const label = this.#timer ? "Pause" : "Play";
    setAttribute(this.play, "aria-label", label);
    setAttribute(this.play, "title", `${label} (space)`);
    setAttribute(this.play, "data-playing", Boolean(this.#timer));
  }

  #move(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    const { views } = this.app.source;
    const at = (views.indexOf(this.view) + by + views.length) % views.length;
    this.app.state.set({ view: views[at] });
    this.tabs[at].focus();
  }
}

function title(view) {
  return view[0].toUpperCase() + view.slice(1);
}
