// The page in a file: the maps of one text, all of them embedded.

import { Dashboard } from "./dashboard.js";
import { followTheme } from "./host.js";
import { Layer, weightTable } from "./record.js";

export async function start(data) {
  followTheme();
  const dashboard = new Dashboard(new Embedded(data));
  document.body.replaceChildren(dashboard.element);
  await dashboard.start();
}

class Embedded {
  isLive = false;
  views = ["matrix", "lines", "tokens"];

  constructor({ title, records }) {
    this.title = title;
    this.records = new Map(records.map((one) => [one.tag, one]));
  }

  async index() {
    const moments = [...this.records.keys()].map((tag) => [tag, { steps: [0], started: 0 }]);
    return { runs: { [this.title]: Object.fromEntries(moments) } };
  }

  async record(run, tag) {
    const { layers, ...others } = this.records.get(tag);
    return { ...others, layers: layers.map((one) => exactLayer(one, others)), bytes: 0 };
  }
}

// Colours need one byte per cell; numbers are exact.
function exactLayer({ name, norm, heads, weights, allowed }, { queries, keys }) {
  const exact = new Float32Array(bytes(weights).buffer);
  let peak = 0;
  for (const weight of exact) peak = Math.max(peak, Math.abs(weight));
  const scale = peak || 1;
  const isSigned = norm === "signed";
  const codes = Uint8Array.from(exact, (weight) => {
    const root = Math.sign(weight) * Math.sqrt(Math.abs(weight) / scale);
    return Math.max(0, Math.round(isSigned ? 128 + 127 * root : 255 * root));
  });
  return new Layer({
    name,
    norm,
    heads,
    queries: queries.length,
    keys: keys.length,
    codes,
    exact,
    table: weightTable(isSigned ? "s8sqrt" : "u8sqrt", scale),
    peak: scale,
    allowed: allowed && bytes(allowed),
  });
}

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}
