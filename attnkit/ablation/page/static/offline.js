// The page in a file: one comparison, embedded in it.

import { followTheme } from "./host.js";
import { AblationsPage } from "./page.js";

export async function start(data) {
  followTheme();
  const page = new AblationsPage(new Embedded(data));
  document.body.replaceChildren(page.element);
  await page.start();
}

class Embedded {
  isLive = false;

  constructor({ view, curves, exports }) {
    Object.assign(this, { view, exports });
    this.allCurves = curves;
    this.forms = { csv: "text/csv", tex: "application/x-tex", md: "text/markdown" };
  }

  async studies() {
    return [{ id: this.view.id, name: this.view.id, counts: {} }];
  }

  async study() {
    return this.view;
  }

  async curves({ seeds }) {
    if (seeds) return this.allCurves;
    return { ...this.allCurves, seeds: this.allCurves.seeds.filter(({ finished }) => !finished) };
  }

  async export(_, form) {
    return this.exports[form];
  }
}
