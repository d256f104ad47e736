// The page: passes changes (state, index, theme, size) to its parts.

import { Announcer } from "./announce.js";
import { fetchIndex } from "./api.js";
import { RecordCache } from "./cache.js";
import { Catalogue } from "./catalogue.js";
import { element, setText } from "./element.js";
import { isShown, onHashChange, onReload, readHash, writeHash } from "./host.js";
import { Keyboard } from "./keyboard.js";
import { fromHash, ownPart, toHash } from "./link.js";
import { select } from "./selection.js";
import { Sidebar } from "./sidebar.js";
import { Stage } from "./stage.js";
import { Hover, State } from "./state.js";
import { Toolbar } from "./toolbar.js";

const POLL_MILLISECONDS = 10_000;

const LINK_DELAY = 150;

export class Dashboard {
  #linking = 0;
  #read = ownPart(readHash()); // our part of the address, as it was last read or written
  #announced = null;

  constructor() {
    this.state = new State(fromHash(readHash()));
    this.hover = new Hover();
    this.catalogue = new Catalogue();
    this.cache = new RecordCache();
    this.announcer = new Announcer();
    this.sidebar = new Sidebar(this);
    this.toolbar = new Toolbar(this);
    this.stage = new Stage(this);
    this.keyboard = new Keyboard(this);
    this.alert = element("p", { class: "alert", role: "alert", hidden: true });
    const main = element("main", {}, this.toolbar.element, this.alert, this.stage.element);
    this.element = element(
      "div",
      { class: "dashboard" },
      this.sidebar.element,
      main,
      this.keyboard.element,
      this.announcer.element,
    );
  }

  async start() {
    this.state.listen((values) => this.update(values));
    window.addEventListener("themechange", () => this.repaint());
    onHashChange(() => this.#follow());
    onReload(() => this.reload());
    await this.#poll();
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
      const changed = this.catalogue.read(await fetchIndex());
      this.alert.hidden = true;
      if (changed) this.state.refresh();
    } catch (error) {
      setText(this.alert, error.message);
      this.alert.hidden = false;
    }
  }

  update(values) {
    this.#tell(values);
    this.selection = select(values, this.catalogue);
    this.sidebar.update(values, this.selection);
    this.toolbar.update(values, this.selection);
    this.stage.update(values, this.selection);
    clearTimeout(this.#linking);
    this.#linking = setTimeout(() => this.#link(), LINK_DELAY);
  }

  // Announces changes of view, scale or colours to screen readers.
  #tell(values) {
    const current = ["view", "scale", "colours"].map((key) => `${key} ${values[key]}`);
    const news = current.filter((text, i) => this.#announced && text !== this.#announced[i]);
    this.#announced = current;
    if (news.length) this.announcer.say(news.join(", "));
  }

  // Restores the state from an address.
  #follow() {
    clearTimeout(this.#linking);
    const hash = readHash();
    this.#read = ownPart(hash);
    if (this.#read && hash !== toHash(this.state.values)) this.state.replace(fromHash(hash));
  }

  // Updates the address, unless another tab of TensorBoard uses it now. Delayed, since a change of
  // address is slower in TensorBoard than drawing a step is here. If the user has just followed a
  // link that the browser has not reported yet, the address is read, not overwritten.
  #link() {
    const hash = readHash();
    const tab = hash.split("&")[0];
    if (tab !== "" && tab !== "attention") return;
    if (ownPart(hash) && ownPart(hash) !== this.#read) {
      this.#follow();
      return;
    }
    writeHash(toHash(this.state.values));
    this.#read = ownPart(readHash());
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
