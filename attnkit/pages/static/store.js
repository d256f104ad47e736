// The state of a page as a plain object: all views and the address are functions of it.

import { onHashChange, readHash, writeHash } from "./host.js";

const LINK_DELAY = 150; // milliseconds: changing the address is slower in TensorBoard than drawing

export class Store {
  #listeners = [];
  #scheduled = false;

  constructor(initial, values = {}) {
    this.initial = initial;
    this.values = { ...initial, ...values };
  }

  listen(listener) {
    this.#listeners.push(listener);
  }

  // Changes values; listeners are called once, before the next frame.
  set(changes) {
    const keys = Object.keys(changes);
    if (keys.every((key) => Object.is(this.values[key], changes[key]))) return;
    this.values = { ...this.values, ...changes };
    this.refresh();
  }

  replace(values) {
    this.values = { ...this.initial, ...values };
    this.refresh();
  }

  refresh() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      for (const listener of this.#listeners) listener(this.values);
    });
  }
}

// Keeps the state and the address in sync.
export class Linked {
  #linking = 0;
  #read;

  // `address` is an `Address`; `allowed` corrects the values that were read.
  constructor(address, initial, allowed = (values) => values) {
    this.address = address;
    this.allowed = allowed;
    this.#read = address.pluginPart(readHash()); // as it was last read or written
    this.store = new Store(initial, allowed(address.fromHash(readHash())));
  }

  start() {
    onHashChange(() => this.#follow());
    this.store.listen(() => {
      clearTimeout(this.#linking);
      this.#linking = setTimeout(() => this.#link(), LINK_DELAY);
    });
  }

  // Restores the state from an address.
  #follow() {
    clearTimeout(this.#linking);
    const { address, store } = this;
    const hash = readHash();
    this.#read = address.pluginPart(hash);
    if (this.#read && hash !== address.toHash(store.values))
      store.replace(this.allowed(address.fromHash(hash)));
  }

  // Updates the address, unless another tab of TensorBoard uses it now. If the user has just
  // followed a link that the browser has not reported yet, the address is read, not overwritten.
  #link() {
    const { address, store } = this;
    const hash = readHash();
    const tab = hash.split("&")[0];
    if (tab !== "" && tab !== address.plugin) return;
    const part = address.pluginPart(hash);
    if (part && part !== this.#read) {
      this.#follow();
      return;
    }
    writeHash(address.toHash(store.values));
    this.#read = address.pluginPart(readHash());
  }
}
