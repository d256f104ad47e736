// The runs without a result: their progress, or why they have ended.

import { element } from "./element.js";

const HINTS = {
  stopped: "no process trains it; run the command of the study again to continue",
};

const COUNTED = ["finished", "halved", "queued"]; // not listed one by one

export class RunsList {
  #drawn = "";

  constructor(app) {
    this.app = app;
    this.list = element("dl");
    this.more = element("p", { class: "hint" });
    this.element = element(
      "section",
      { class: "going", "aria-label": "Runs without a result" },
      element("h2", {}, "Runs without a result"),
      this.list,
      this.more,
    );
  }

  update({ variants, complete }) {
    const runs = variants.flatMap(({ label, runs }) => runs.map((run) => ({ label, ...run })));
    const shown = runs.filter(({ state }) => !COUNTED.includes(state));
    const count = (kind) => runs.filter(({ state }) => state === kind).length;
    const [queued, halved] = [count("queued"), count("halved")];
    const drawn = JSON.stringify([shown, queued, halved, complete]);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    this.element.hidden = !shown.length && !queued && !halved;
    this.list.replaceChildren(...shown.flatMap((run) => this.#run(run)));
    const counts = [queued && `${queued} queued`, halved && `${halved} stopped by halving`];
    this.more.textContent = counts.filter(Boolean).join(", ");
  }

  #run(run) {
    const detail = run.text || HINTS[run.state] || "starting";
    const text = run.state === "failed" && run.text ? detail : `${run.state}: ${detail}`;
    const name = `${run.label}, seed ${run.seed}`;
    return [
      element("dt", {}, element("i", { class: `square ${run.state}`, title: run.state }), name),
      element(
        "dd",
        {},
        element("span", {}, text),
        run.lines.length ? element("pre", {}, run.lines.join("\n")) : null,
      ),
    ];
  }
}
