// A request to TensorBoard; errors have its own words. A status of 304 answers `If-None-Match`.

export async function ask(address, parameters = {}, options = {}) {
  for (const [name, value] of Object.entries(parameters)) address.searchParams.set(name, value);
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("TensorBoard does not answer. Is it still running?");
  }
  if (response.ok || response.status === 304) return response;
  const reply = await response.json().catch(() => ({}));
  throw new Error(String(reply.error ?? `TensorBoard answered with ${response.status}`));
}
