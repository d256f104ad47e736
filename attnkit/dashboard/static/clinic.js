// The clinic of a run, prepared for its view.

import { clampIndex } from "./selection.js";
import { nearestStep } from "./catalogue.js";
import { Score } from "./clinic_scores.js";
import { readable } from "./tokens.js";

// The heads of a site (the first one by default): `heads` in a list, `rows` by layer, `names` of
// their scores; null if it has no heads.
export function clinicOf({ steps, heads, formed }, site) {
  const found = heads.filter((one) => one.site === (site ?? heads[0].site));
  if (!found.length) return null;
  const all = found
    .sort((a, b) => a.layer - b.layer || a.head - b.head)
    .map(({ layer, head, scores, words }) => ({ place: { layer, head }, scores, words }));
  const rows = Array.from({ length: all.at(-1).place.layer + 1 }, (_, layer) =>
    all.filter(({ place }) => place.layer === layer),
  );
  const names = Score.sorted(new Set(all.flatMap(({ scores }) => Object.keys(scores))));
  const shape = JSON.stringify(rows.map((row) => row.length));
  return { steps, heads: all, rows, names, formed, shape };
}

// The input of the view.
export function examination(values, clinic, run, selection) {
  const step = nearestStep(clinic.steps, selection.step);
  const layer = clampIndex(values.layer, clinic.rows.length);
  return {
    run,
    values,
    clinic,
    layer,
    head: clampIndex(values.head, clinic.rows[layer].length),
    step,
    index: clinic.steps.indexOf(step),
    score: clinic.names.includes(values.score) ? values.score : clinic.names[0],
  };
}

// What to do about a run without a clinic.
export function withoutClinic(run) {
  return (
    "This run was not examined while it trained. Train it with the key " +
    "callbacks: [head_clinic]. To examine its heads now, use " +
    `attnkit clinic RUN (RUN: the directory of ${readable(run)}).`
  );
}
