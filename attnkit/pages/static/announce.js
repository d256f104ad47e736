// Announces changes to screen readers, with a delay: scrubbing through fifty steps is one message.

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
