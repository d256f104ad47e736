// Short notes on a map that its reader must know.

import { readable, visible } from "./tokens.js";

export function facts({ values, record, layer, head, map }) {
  const notes = [`${record.kind}-attention`];
  if (record.shows) notes.push(record.shows);
  notes.push(maskName(record, map));
  notes.push(`${map.queries}\u00a0×\u00a0${map.keys}\u00a0tokens`);
  if (map.norm === "unnormalised" && !record.shows) notes.push("rows do not sum to 1");
  if (map.norm === "signed") notes.push("signed weights");
  if (values.layer !== layer) notes.push(`no layer ${values.layer}: ${visible(map.name)} is shown`);
  else if (values.head !== head && !map.isOfAllHeads) {
    notes.push(`${map.heads === 1 ? "1 head" : `${map.heads} heads`}: h${head} is shown`);
  }
  if (record.note) notes.push(readable(record.note));
  return notes;
}

function maskName(record, map) {
  if (!map.allowed) return "no mask";
  const plain =
    map.allowed.length === map.cells &&
    map.allowed.every((cell, at) => {
      const query = Math.floor(at / map.keys);
      return cell === Number(at % map.keys <= query + map.keys - map.queries);
    });
  if (plain) return "causal";
  return record.causal ? "causal, masked further" : "masked";
}
