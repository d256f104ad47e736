// The numbers of a view as rows of a table; the first row has the titles.

// The chosen map: one row per query, one column per key; masked cells are empty.
export function mapTable({ record, map, head }) {
  const rows = record.queries.map((token, query) => [
    query,
    token,
    ...record.keys.map((_, key) =>
      map.isAllowed(head, query, key) ? map.weight(head, query, key) : "",
    ),
  ]);
  return [["query", "token", ...record.keys.map((token, key) => `${key} ${token}`)], ...rows];
}
