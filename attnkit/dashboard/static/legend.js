// The colour bar of one layer's map.

import { element, setText } from "./element.js";
import { LEVELS, Ramp } from "./palettes.js";
import { effectiveScale, isDiverging, scaleLabels } from "./scales.js";
import { number } from "./tokens.js";

export class Legend {
  #painted = "";

  constructor() {
    this.bar = element("canvas", { width: LEVELS + 1, height: 1 });
    this.labels = [0, 1].map(() => element("span"));
    this.masked = element("span", { class: "masked" }, element("i"), "masked");
    this.element = element(
      "div",
      { class: "legend", "aria-hidden": "true" },
      this.labels[0],
      this.bar,
      this.labels[1],
      this.masked,
    );
  }

  update(layer, { scale, colours }) {
    const effective = effectiveScale(layer, scale);
    const ramp = isDiverging(layer, effective) ? "diverging" : colours;
    scaleLabels(layer, scale, number).forEach((text, i) => setText(this.labels[i], text));
    this.masked.hidden = !layer.allowed;
    if (this.#painted === ramp) return;
    this.#painted = ramp;
    const context = this.bar.getContext("2d");
    for (let level = 0; level <= LEVELS; level++) {
      context.fillStyle = Ramp.of(ramp).css(level);
      context.fillRect(level, 0, 1, 1);
    }
  }
}
