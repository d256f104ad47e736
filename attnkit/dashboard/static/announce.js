// Says changes to screen readers, a little late: a scrub through fifty steps is one message.

import { element, setText } from "./element.js";

const DELAY = 250;

export class Announcer {
  #timer = 0;

  constructor() {
    this.element = element("div", { class: "unseen", role: "status", "aria-live": "polite" });
  }

  say(text) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => setText(this.element, text), DELAY);
  }
}
