// Sends a request to TensorBoard; throws its error messages. The status 304, which answers
// `If-None-Match`, is not an error.

export async function request(address, parameters = {}, options = {}) {
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
