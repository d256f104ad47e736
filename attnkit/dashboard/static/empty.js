// Messages for empty views, with the next thing to do.

import { element } from "./element.js";
import { readable } from "./tokens.js";

export function emptyState(catalogue, selection, requested) {
  if (!catalogue.all) return words("Looking for runs …");
  if (!catalogue.all.length) {
    return words(
      "No runs here yet",
      "TensorBoard finds no event files in its log directory. Train something:",
      "attnkit run quickstart",
      "This page looks again every ten seconds.",
    );
  }
  if (!catalogue.runs.length) {
    const count = catalogue.all.length === 1 ? "One run is" : `${catalogue.all.length} runs are`;
    return words(
      "No attention maps in these runs",
      `${count} here, but without maps. A recipe logs them with`,
      "logging: {attention_maps: 12}",
      "and any LightningModule with the callback attnkit.AttentionMaps. A run that has just begun " +
        "writes its first maps within some seconds.",
    );
  }
  if (!selection.runs.length && requested?.length) {
    const known = requested.filter((run) => catalogue.all.includes(run));
    const names = (known.length ? known : requested).map(readable).join(", ");
    const title = known.length
      ? "No attention maps in these runs"
      : "These runs are not in the log directory";
    return words(title, `${names}: choose others on the left.`);
  }
  if (!selection.runs.length) return words("No run is chosen", "Choose one or more on the left.");
  return null;
}

function words(title, text = "", code = "", more = "") {
  return element(
    "div",
    { class: "empty" },
    element("h2", {}, title),
    text ? element("p", {}, text) : null,
    code ? element("pre", {}, code) : null,
    more ? element("p", {}, more) : null,
  );
}
