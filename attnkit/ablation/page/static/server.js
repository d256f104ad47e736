// Requests to TensorBoard. Addresses are relative to this file, which lies in static/VERSION/, so
// that a TensorBoard behind a path prefix works too.

import { request } from "./request.js";

const FORMS = { csv: "text/csv", tex: "application/x-tex", md: "text/markdown" };

// The source of the page's data in TensorBoard; `offline.js` has that of a file.
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
    return (await this.#request("export", { study, base, metric, form })).text();
  }

  // Returns the object of the last answer on a route again if it has not changed.
  async #answer(route, parameters) {
    const last = this.#last[route];
    const headers = last ? { "If-None-Match": last.tag } : {};
    const response = await this.#request(route, parameters, { headers });
    if (response.status === 304) return last.content;
    const content = await response.json();
    this.#last[route] = { tag: response.headers.get("ETag"), content };
    return content;
  }

  #request(route, parameters, options) {
    const set = Object.entries(parameters).filter(([, value]) => value !== null);
    const address = new URL(route, new URL("../../", import.meta.url));
    return request(address, Object.fromEntries(set), options);
  }
}
