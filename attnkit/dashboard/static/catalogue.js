// The server's index: the runs with their maps and steps.

import { tagParts } from "./tokens.js";

export class Catalogue {
  #text = "";
  all = null; // names of all runs, with or without maps; null until the server has answered
  runs = []; // names of those with maps, or files of a view
  series = new Map(); // run -> tag -> {steps, started}
  files = {}; // view that reads files -> run -> {steps, written}

  // Stores a new index; returns true if anything changed.
  read(index) {
    const text = JSON.stringify(index);
    if (text === this.#text) return false;
    this.#text = text;
    this.all = Object.keys(index.runs);
    this.series = new Map(this.all.map((run) => [run, new Map(Object.entries(index.runs[run]))]));
    const { clinics = {}, contributions = {} } = index;
    this.files = { clinic: clinics, contributions };
    const withFiles = Object.values(this.files);
    this.runs = this.all.filter(
      (run) => this.series.get(run).size > 0 || withFiles.some((files) => Object.hasOwn(files, run)),
    );
    return true;
  }

  // All tags of some runs, the most common first.
  sites(runs) {
    const counts = new Map();
    for (const run of runs) {
      for (const tag of this.series.get(run)?.keys() ?? [])
        counts.set(tag, (counts.get(tag) ?? 0) + 1);
    }
    return [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a) || siteOrder(a, b));
  }

  // {run, tag, started, steps}, or null if the run has no such maps.
  find(run, tag) {
    const found = this.series.get(run)?.get(tag);
    return found ? { run, tag, ...found } : null;
  }

  // The union of the steps of some runs at a site, ascending.
  steps(runs, tag) {
    return union(runs.map((run) => this.find(run, tag)?.steps ?? []));
  }

  // The file of a run for a view: {steps, written}, or null.
  file(view, run) {
    const files = this.files[view];
    return files && Object.hasOwn(files, run) ? files[run] : null;
  }

  // The union of the steps in the files of some runs for a view.
  fileSteps(view, runs) {
    return union(runs.map((run) => this.file(view, run)?.steps ?? []));
  }
}

function union(steps) {
  return [...new Set(steps.flat())].sort((a, b) => a - b);
}

// The last step up to `limit`; a run that begins later shows its first.
export function nearestStep(steps, limit) {
  let nearest = steps[0];
  for (const step of steps) if (step <= limit) nearest = step;
  return nearest;
}

function siteOrder(a, b) {
  const first = tagParts(a);
  const second = tagParts(b);
  return first.example.localeCompare(second.example) || first.site.localeCompare(second.site);
}

// "quickstart/mha/seed0" -> its folder "quickstart", its variant "mha", its seed "seed0".
export function splitRun(run) {
  const [, path, seed = ""] = /^(.+?)(?:[/\\](seed\d+))?$/.exec(run) ?? ["", run];
  const end = Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\"));
  return { folder: path.slice(0, Math.max(0, end)), variant: path.slice(end + 1), seed };
}
