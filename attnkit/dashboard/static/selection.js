// Resolves the state for the existing runs: valid choices, and defaults for missing ones.

import { nearestStep, splitRun } from "./catalogue.js";

const FIRST_RUNS = 2;

export function select(values, catalogue) {
  const known = new Set(catalogue.runs);
  const runs = values.run?.filter((run) => known.has(run)) ?? firstRuns(values.site, catalogue);
  const sites = catalogue.sites(runs.length ? runs : catalogue.runs);
  const site = sites.includes(values.site) ? values.site : (sites[0] ?? null);
  const inFiles = catalogue.fileSteps(values.view, runs);
  const steps = inFiles.length ? inFiles : catalogue.steps(runs, site);
  const last = steps.length - 1;
  const step = last < 0 ? null : nearestStep(steps, values.step ?? steps[last]);
  return { runs, sites, site, steps, step, index: steps.indexOf(step), ...pair(values, runs) };
}

// Default runs: the first ones with maps of the same example and site, of different variants if
// possible.
function firstRuns(chosen, catalogue) {
  const sites = catalogue.sites(catalogue.runs);
  const site = sites.includes(chosen) ? chosen : sites[0];
  const withMaps = catalogue.runs.filter((run) => catalogue.find(run, site));
  const candidates = withMaps.length ? withMaps : catalogue.runs;
  const path = (run) => `${splitRun(run).folder}/${splitRun(run).variant}`;
  const firsts = new Map([...candidates].reverse().map((run) => [path(run), run]));
  const others = [...firsts.values()].reverse();
  return [...new Set([...others, ...candidates])].slice(0, FIRST_RUNS);
}

// The runs of Difference: as chosen, or the first two, or a run against its own start.
function pair(values, runs) {
  const a = runs.includes(values.a) ? values.a : (runs[0] ?? null);
  const others = [...runs.filter((run) => run !== a), START];
  const b = others.includes(values.b) ? values.b : others[0];
  return { a, b, others };
}

// Stands for run A at its first step. No run has this name, since `:` is not allowed.
export const START = ":start";

// Replaces a head or layer that a smaller model lacks by its last one.
export function clampIndex(index, count) {
  return Math.max(0, Math.min(index, count - 1));
}

// The input of a view: a record, and the choices that apply to it.
export function drawing(values, record, hint = {}) {
  const layer = clampIndex(values.layer, record.layers.length);
  const head = clampIndex(values.head, record.layers[layer].heads);
  const fits = (index, count) => (index !== null && index < count ? index : null);
  return {
    values,
    record,
    layer,
    head,
    map: record.layers[layer],
    query: fits(values.query, record.queries.length),
    key: fits(values.key, record.keys.length),
    ...hint,
  };
}
