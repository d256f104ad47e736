// Colours. Maps: cividis and viridis, suitable for colour blindness; signed values: blue to red
// through the theme's background; text: tinted blue. Runs and heads: after Okabe and Ito.

const RAMPS = {
  cividis: "00224e 123570 3b496c 575d6d 707173 8a8678 a59c74 c3b369 e1cc55 fee838",
  viridis: "440154 482878 3e4989 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725",
  grey: "1c1c1c 383838 545454 707070 8c8c8c a6a6a6 bfbfbf d6d6d6 ebebeb ffffff",
  "diverging light": "053061 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 67001f",
  "diverging dark": "b8deff 7dbcf5 4794d6 2f6797 253f54 1e2022 54302a 99483a d46a55 f59a83 ffcfc1",
  "tint light": "ffffff e6f0f9 cfe2f3 a9cce9 7db2dc 5197cc 2c7cba 15619f",
  "tint dark": "303030 2e3d4a 2c4d66 2f6389 3c7dac 5399cd 79b6e8 addafc",
};

const RUNS = {
  light: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c8300", "#555555"],
  dark: ["#56b4e9", "#ee7733", "#2fc79a", "#e59bc4", "#8c9eff", "#f0b83c", "#f0e442", "#bbbbbb"],
};

export const MASKED = 255; // index of a masked cell: no colour
export const LEVELS = 254; // indices 0 to 254 are colours
export const MIDDLE = 127; // zero of a diverging palette

// 256 colours as ImageData's 32-bit words (little-endian RGBA), and as CSS.
export class Ramp {
  static #cache = new Map();

  // By name; some differ in the dark theme.
  static of(name) {
    const key = name in RAMPS ? name : `${name} ${theme()}`;
    if (!Ramp.#cache.has(key)) Ramp.#cache.set(key, new Ramp(RAMPS[key]));
    return Ramp.#cache.get(key);
  }

  constructor(anchors) {
    const colours = anchors.split(" ").map((hex) => Number.parseInt(hex, 16));
    this.words = new Uint32Array(256);
    for (let level = 0; level <= LEVELS; level++) {
      const place = (level / LEVELS) * (colours.length - 1);
      const below = Math.min(Math.floor(place), colours.length - 2);
      const [red, green, blue] = [16, 8, 0].map((shift) => {
        const from = (colours[below] >> shift) & 255;
        const to = (colours[below + 1] >> shift) & 255;
        return Math.round(from + (to - from) * (place - below));
      });
      this.words[level] = (255 << 24) | (blue << 16) | (green << 8) | red;
    }
    this.words[MASKED] = 0;
  }

  css(level) {
    const word = this.words[level];
    return `rgb(${word & 255} ${(word >> 8) & 255} ${(word >> 16) & 255})`;
  }

  // Black or white, whichever is legible on the colour.
  ink(level) {
    const word = this.words[level];
    const light = 0.299 * (word & 255) + 0.587 * ((word >> 8) & 255) + 0.114 * ((word >> 16) & 255);
    return light > 140 ? "#000" : "#fff";
  }
}

function theme() {
  return document.documentElement.dataset.theme === "dark" ? "dark" : "light";
}

export function categorical(index) {
  const colours = RUNS[theme()];
  return colours[index % colours.length];
}

// A run keeps its colour, independently of the selection.
export function runColour(catalogue, run) {
  return categorical(Math.max(0, catalogue.runs.indexOf(run)));
}
