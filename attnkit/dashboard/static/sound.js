// The sound that the keys of a map are positions of: its spectrogram, and a button that plays it.

import { element, setText } from "./element.js";
import { LEVELS, Ramp } from "./palettes.js";

export const STRIP = 64; // height of a spectrogram in CSS pixels

const images = new WeakMap();

// The spectrogram as a canvas: the louder, the lighter.
export function stripImage(sound) {
  if (images.has(sound)) return images.get(sound);
  const { words } = Ramp.of("grey");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [sound.columns, sound.bands];
  const context = canvas.getContext("2d");
  const image = context.createImageData(sound.columns, sound.bands);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = words[Math.min(sound.strip[i], LEVELS)];
  context.putImageData(image, 0, 0);
  images.set(sound, canvas);
  return canvas;
}

// Plays the samples directly: a page's policy may forbid media from all addresses.
export class PlayButton {
  #sound = null;
  #context = null;
  #source = null;

  constructor() {
    this.element = element("button", { type: "button", class: "play-sound" });
    this.element.addEventListener("click", () => (this.#source ? this.#stop() : this.#play()));
    this.#stop();
  }

  update(sound) {
    this.element.hidden = !sound;
    if (sound?.wave.length !== this.#sound?.wave.length) this.#stop();
    this.#sound = sound;
  }

  #play() {
    const { wave, rate } = this.#sound;
    this.#context ??= new AudioContext();
    const buffer = this.#context.createBuffer(1, wave.length, rate);
    buffer.copyToChannel(wave, 0);
    this.#source = this.#context.createBufferSource();
    this.#source.buffer = buffer;
    this.#source.connect(this.#context.destination);
    this.#source.onended = () => this.#stop();
    this.#source.start();
    setText(this.element, "Stop");
  }

  #stop() {
    if (this.#source) {
      this.#source.onended = null;
      this.#source.stop();
    }
    this.#source = null;
    setText(this.element, "Play sound");
  }
}
