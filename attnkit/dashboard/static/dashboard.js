// The page: passes changes (state, index, theme, size) to its parts.

import { Announcer } from "./announce.js";
import { AnswerCache, RecordCache } from "./cache.js";
import { Catalogue } from "./catalogue.js";
import { element, setText } from "./element.js";
import { isShown, onReload } from "./host.js";
import { Keyboard } from "./keyboard.js";
import { select } from "./selection.js";
import { Sidebar } from "./sidebar.js";
import { Stage } from "./stage.js";
import { ADDRESS, Hover, INITIAL } from "./state.js";
import { Linked } from "./store.js";
import { Toolbar } from "./toolbar.js";

const POLL_MILLISECONDS = 10_000;

export class Dashboard {
  #announced = null;

  // `source` has the methods `index`, `record`, `statistics`, `clinic` and `contributions`; its
  // `views` are those that it has data for.
  constructor(source) {
    this.source = source;
    this.linked = new Linked(ADDRESS, INITIAL, (values) => this.#allowed(values));
    this.state = this.linked.store;
    this.hover = new Hover();
    this.catalogue = new Catalogue();
    this.cache = new RecordCache(source);
    this.answers = new AnswerCache();
    this.announcer = new Announcer();
    this.sidebar = new Sidebar(this);
    this.toolbar = new Toolbar(this);
    this.stage = new Stage(this);
    this.keyboard = new Keyboard(this);
    this.alert = element("p", { class: "alert", role: "alert", hidden: true });
    const main = element("main", {}, this.toolbar.element, this.alert, this.stage.element);
    this.element = element(
      "div",
      { class: source.isLive ? "dashboard" : "dashboard offline" },
      this.sidebar.element,
      main,
      this.keyboard.element,
      this.announcer.element,
    );
  }

  async start() {
    this.state.listen((values) => this.update(values));
    window.addEventListener("themechange", () => this.repaint());
    this.linked.start();
    if (this.source.isLive) {
      onReload(() => this.reload());
      await this.#poll();
    } else await this.reload();
    this.state.refresh();
  }

  // Polls the index, less often if an answer takes long: hundreds of runs make a long index.
  async #poll() {
    const begin = performance.now();
    if (isShown()) await this.reload();
    const pause = Math.max(POLL_MILLISECONDS, 30 * (performance.now() - begin));
    setTimeout(() => this.#poll(), pause);
  }

  // Fetches the current index: a run in progress has new steps.
  async reload() {
    try {
      const changed = this.catalogue.read(await this.source.index());
      this.alert.hidden = true;
      if (changed) this.state.refresh();
    } catch (error) {
      setText(this.alert, error.message);
      this.alert.hidden = false;
    }
  }

  update(values) {
    this.#announce(values);
    this.selection = select(values, this.catalogue);
    this.sidebar.update(values, this.selection);
    this.toolbar.update(values, this.selection);
    this.stage.update(values, this.selection);
  }

  // Announces changes of view, scale or colours to screen readers.
  #announce(values) {
    const current = ["view", "mode", "scale", "colours"].map((key) => `${key} ${values[key]}`);
    const changes = current.filter((text, i) => this.#announced && text !== this.#announced[i]);
    this.#announced = current;
    if (changes.length) this.announcer.say(changes.join(", "));
  }

  // An address may name a view that this page lacks.
  #allowed(values) {
    const { view, ...others } = values;
    return this.source.views.includes(view) ? values : others;
  }

  repaint() {
    this.stage.forget();
    this.state.refresh();
  }

  // Moves by `count` logged steps; the last one is followed while training continues.
  moveStep(count) {
    const { steps, index } = this.selection;
    this.goTo(index + count, steps);
  }

  goTo(index, steps = this.selection.steps) {
    if (!steps.length) return;
    const at = Math.max(0, Math.min(index, steps.length - 1));
    this.state.set({ step: at === steps.length - 1 ? null : steps[at] });
    this.announcer.say(`step ${steps[at]}, ${at + 1} of ${steps.length}`);
  }
}
