// Requests to the server. Addresses are relative to this file, so that a TensorBoard behind a path
// prefix works too.

import { request } from "./request.js";
import { parseRecord } from "./record.js";
import { VIEWS } from "./state.js";

// The source of the page's data in TensorBoard; `offline.js` has that of a file.
export class Server {
  isLive = true;
  views = VIEWS;

  async index() {
    return (await this.#answer("index")).json();
  }

  async record(run, tag, step) {
    return parseRecord(await (await this.#answer("record", { run, tag, step })).arrayBuffer());
  }

  async statistics(run, tag) {
    return (await this.#answer("statistics", { run, tag })).json();
  }

  async clinic(run) {
    return (await this.#answer("clinic", { run })).json();
  }

  async contributions(run, step) {
    return (await this.#answer("contributions", { run, step })).json();
  }

  async #answer(route, parameters) {
    try {
      return await request(new URL(route, new URL("../../", import.meta.url)), parameters);
    } catch (error) {
      throw new Error(explain(error.message));
    }
  }
}

function explain(message) {
  if (!message.startsWith("format version")) return message;
  return `${message}. Another version of attnkit wrote these maps: update the one that TensorBoard uses.`;
}
