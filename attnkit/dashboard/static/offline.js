// The page in a file: the maps of one text, embedded in it.

import { Dashboard } from "./dashboard.js";
import { followTheme } from "./host.js";
import { Layer, bytesIn, numbersIn, unpackSound } from "./record.js";

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
    others.sound = await unpackSound(others.sound);
    return { ...others, layers: layers.map((one) => exactLayer(one, others)), bytes: 0 };
  }
}

function exactLayer({ name, norm, heads, weights, allowed, lengths }, { queries, keys }) {
  return Layer.ofNumbers({
    name,
    norm,
    heads,
    queries: queries.length,
    keys: keys.length,
    exact: numbersIn(weights),
    allowed: allowed && bytesIn(allowed),
    lengths: numbersIn(lengths),
  });
}
