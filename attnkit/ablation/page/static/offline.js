// The page in a file: one comparison, embedded.

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
    this.drawn = curves;
    this.forms = { csv: "text/csv", tex: "application/x-tex", md: "text/markdown" };
  }

  async studies() {
    return [{ id: this.view.id, name: this.view.id, counts: {} }];
  }

  async study() {
    return this.view;
  }

  async curves({ seeds }) {
    if (seeds) return this.drawn;
    return { ...this.drawn, seeds: this.drawn.seeds.filter(({ finished }) => !finished) };
  }

  async export(_, form) {
    return this.exports[form];
  }
}
