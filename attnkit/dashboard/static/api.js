// Requests to the server. Addresses are relative to this file, so that a TensorBoard behind a path
// prefix works too.

import { parseRecord } from "./record.js";

const BASE = new URL("../", import.meta.url);

export async function fetchIndex() {
  return (await answer("index")).json();
}

export async function fetchRecord(run, tag, step) {
  return parseRecord(await (await answer("record", { run, tag, step })).arrayBuffer());
}

export async function fetchStatistics(run, tag) {
  return (await answer("statistics", { run, tag })).json();
}

async function answer(route, parameters = {}) {
  const address = new URL(route, BASE);
  for (const [name, value] of Object.entries(parameters)) address.searchParams.set(name, value);
  let response;
  try {
    response = await fetch(address);
  } catch {
    throw new Error("TensorBoard does not answer. Is it still running?");
  }
  if (response.ok) return response;
  const reply = await response.json().catch(() => ({}));
  throw new Error(explained(String(reply.error ?? `TensorBoard answered with ${response.status}`)));
}

function explained(message) {
  if (!message.startsWith("format version")) return message;
  return `${message}. Another attnkit wrote these maps: update the one that TensorBoard runs with.`;
}
