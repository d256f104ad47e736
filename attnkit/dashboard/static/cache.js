// Caches of the server's answers.

const MAX_BYTES = 96 * 2 ** 20;

// Answers from files that grow while a run trains; requested again when a file has changed.
export class AnswerCache {
  #answers = new Map(); // address -> {written, answer}

  get(address, written, fetch) {
    const known = this.#answers.get(address);
    if (known?.written === written) return known.answer;
    const answer = fetch().catch((error) => {
      this.#answers.delete(address); // the next try may succeed
      throw error;
    });
    this.#answers.set(address, { written, answer });
    return answer;
  }
}

// The most recently used records, also those of prefetched steps.
export class RecordCache {
  #records = new Map(); // address -> {record} or {error}
  #pending = new Map(); // address -> promise
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
    if (!this.#pending.has(address)) {
      const pending = this.source
        .record(series.run, series.tag, step)
        .then((record) => this.#store(address, { record }))
        .catch((error) => ({ error })) // not cached: the next try may succeed
        .finally(() => this.#pending.delete(address));
      this.#pending.set(address, pending);
    }
    return this.#pending.get(address);
  }

  #store(address, found) {
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
