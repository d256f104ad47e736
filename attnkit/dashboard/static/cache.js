// A cache of fetched records (least recently used), which also prefetches steps.

const MAX_BYTES = 96 * 2 ** 20;

export class RecordCache {
  #records = new Map(); // address -> {record} or {error}
  #coming = new Map(); // address -> promise
  #bytes = 0;

  constructor(source) {
    this.source = source;
  }

  // `series` is {run, tag, started}. Returns {record} or {error}, or undefined while loading.
  peek(series, step) {
    const address = key(series, step);
    const found = this.#records.get(address);
    if (found) {
      this.#records.delete(address);
      this.#records.set(address, found);
    }
    return found;
  }

  get(series, step) {
    const address = key(series, step);
    const found = this.peek(series, step);
    if (found) return Promise.resolve(found);
    if (!this.#coming.has(address)) {
      const coming = this.source
        .record(series.run, series.tag, step)
        .then((record) => this.#keep(address, { record }))
        .catch((error) => ({ error })) // not cached: the next try may succeed
        .finally(() => this.#coming.delete(address));
      this.#coming.set(address, coming);
    }
    return this.#coming.get(address);
  }

  #keep(address, found) {
    this.#records.set(address, found);
    this.#bytes += found.record.bytes;
    for (const [oldest, { record }] of this.#records) {
      if (this.#bytes <= MAX_BYTES || oldest === address) break;
      this.#records.delete(oldest);
      this.#bytes -= record.bytes;
    }
    return found;
  }
}

function key({ run, tag, started }, step) {
  return JSON.stringify([run, tag, started, step]);
}
