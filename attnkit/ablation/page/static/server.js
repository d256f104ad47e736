// Requests to TensorBoard. Addresses are relative to this file, which lies in static/VERSION/, so
// that one behind a path prefix works too.

import { ask } from "./ask.js";

const FORMS = { csv: "text/csv", tex: "application/x-tex", md: "text/markdown" };

// Where the page gets its data from: here TensorBoard, in a file `offline.js`.
export class Server {
  isLive = true;
  forms = FORMS;
  #last = {}; // route -> the last answer, and its tag

  async studies() {
    return (await this.#answer("studies", {})).studies;
  }

  study({ study, base, metric }) {
    return this.#answer("study", { study, base, metric });
  }

  curves({ study, tag, metric, seeds }) {
    return this.#answer("curves", { study, tag, metric, seeds: seeds ? "1" : null });
  }

  async export({ study, base, metric }, form) {
    return (await this.#ask("export", { study, base, metric, form })).text();
  }

  // Returns the very object of the last answer on a route, if nothing has changed.
  async #answer(route, parameters) {
    const last = this.#last[route];
    const headers = last ? { "If-None-Match": last.tag } : {};
    const response = await this.#ask(route, parameters, { headers });
    if (response.status === 304) return last.content;
    const content = await response.json();
    this.#last[route] = { tag: response.headers.get("ETag"), content };
    return content;
  }

  #ask(route, parameters, options) {
    const given = Object.entries(parameters).filter(([, value]) => value !== null);
    const address = new URL(route, new URL("../../", import.meta.url));
    return ask(address, Object.fromEntries(given), options);
  }
}
