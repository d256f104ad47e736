// Matrix: every map as a thumbnail, and the chosen one enlarged, with its tokens.

import { element } from "./element.js";
import { mapTable } from "./tables.js";
import { Thumbnails } from "./thumbnails.js";
import { Zoom } from "./zoom.js";

export class MatrixView {
  constructor(app) {
    this.thumbnails = new Thumbnails(app);
    this.zoom = new Zoom(app);
    this.element = element("div", { class: "matrix" }, this.thumbnails.element, this.zoom.element);
  }

  update(model) {
    this.thumbnails.update(model);
    this.zoom.update(model);
  }

  align() {
    this.zoom.fit();
  }

  table(model) {
    return mapTable(model);
  }
}
