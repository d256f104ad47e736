// Caches of what the server answers.

const MAX_BYTES = 96 * 2 ** 20;

// Answers from files that grow while a run trains: asked for anew when a file has changed.
export class AnswerCache {
  #kept = new Map(); // address -> {written, answer}

  get(address, written, ask) {
    const known = this.#kept.get(address);
    if (known?.written === written) return known.answer;
    const answer = ask().catch((error) => {
      this.#kept.delete(address); // the next try may succeed
      throw error;
    });
    this.#kept.set(address, { written, answer });
    return answer;
  }
}

// Fetched records, least recently used, which also prefetches steps.
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
