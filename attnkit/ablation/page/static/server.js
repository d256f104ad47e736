// Requests to TensorBoard. Addresses are relative to this file, so that one behind a path prefix
// works too.

import { ask } from "./ask.js";

const FORMS = { csv: "text/csv", tex: "application/x-tex", md: "text/markdown" };

// Where the page gets its data from: here TensorBoard, in a file `offline.js`.
export class Server {
  isLive = true;
  forms = FORMS;

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

  async #answer(route, parameters) {
    return (await this.#ask(route, parameters)).json();
  }

  #ask(route, parameters) {
    const given = Object.entries(parameters).filter(([, value]) => value !== null);
    return ask(new URL(route, new URL("../", import.meta.url)), Object.fromEntries(given));
  }
}
