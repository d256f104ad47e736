// Selects and sorts the variants that are listed, and those that are drawn.

export const PAGE_SIZE = 50;

// Returns {listed: those that match the filters, page: those on this page of the table, drawn:
// those with a curve, pages}. Each is {place, name, label, runs, row}; `place` gives the colour.
export function chosen(view, values) {
  const all = view.variants.map((variant, place) => ({
    ...variant,
    place,
    row: view.table?.rows[variant.name] ?? null,
  }));
  const pattern = compile(values.filter);
  const matching = all.filter(
    (one) => (pattern?.test(one.label) ?? true) && isOfKind(one, values.kind),
  );
  const listed = sorted(matching, values.sort);
  const pages = Math.max(1, Math.ceil(listed.length / PAGE_SIZE));
  const number = Math.min(values.page, pages - 1);
  const page = listed.slice(number * PAGE_SIZE, (number + 1) * PAGE_SIZE);
  const off = new Set(values.off);
  return { all, listed, page, number, pages, drawn: page.filter((one) => !off.has(one.name)) };
}

// Null for an incomplete expression, which filters nothing.
export function compile(filter) {
  try {
    return new RegExp(filter, "i");
  } catch {
    return null;
  }
}

function isOfKind({ row, runs }, kind) {
  if (kind === "all") return true;
  return row?.verdict === kind || runs.some((run) => run.state === kind);
}

function sorted(variants, sort) {
  if (sort === null) return variants;
  const column = Math.abs(Number(sort));
  const sign = sort.startsWith("-") ? -1 : 1;
  const keyed = variants.map((one) => ({ one, key: sortKey(one, column) }));
  keyed.sort((a, b) => {
    if ((a.key === null) !== (b.key === null)) return a.key === null ? 1 : -1; // missing ones last
    if (typeof a.key === "number" && typeof b.key === "number") return sign * (a.key - b.key);
    return sign * String(a.key ?? "").localeCompare(String(b.key ?? ""), "en", { numeric: true });
  });
  return keyed.map(({ one }) => one);
}

const UNITS = { k: 1e3, M: 1e6, G: 1e9, T: 1e12 };

// The sort key of a cell: its number, with its unit, or its words.
export function sortKey({ label, row }, column) {
  if (column === 0) return label;
  const words = row?.words[column];
  if (words === undefined || words === "-") return null;
  const found = /^([+-]?[\d.,]+(?:e[+-]?\d+)?)\s?([kMGT]?)/.exec(words);
  if (!found) return words;
  return Number(found[1].replaceAll(",", "")) * (UNITS[found[2]] ?? 1);
}

// The names in TensorBoard of the variants' runs with the first seed that all have; without such a
// seed, of the first run of each.
export function runsOfOneSeed(variants) {
  const seeds = variants.map(
    ({ runs }) => new Map(runs.filter((run) => run.run).map((run) => [run.seed, run.run])),
  );
  const common = [...(seeds[0]?.keys() ?? [])].filter((seed) => seeds.every((one) => one.has(seed)));
  if (common.length) return seeds.map((one) => one.get(common[0]));
  return seeds.flatMap((one) => [...one.values()].slice(0, 1));
}
