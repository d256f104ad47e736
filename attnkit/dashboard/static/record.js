// A logged record in the format of attnkit/tensorboard/map_format.py, with its layers inflated. The
// server has validated the sizes in the header.

const LITTLE_ENDIAN = true;

export async function parseRecord(buffer) {
  const view = new DataView(buffer);
  const count = view.getUint32(0, LITTLE_ENDIAN);
  const blobs = [];
  let start = 4 * (1 + count);
  for (let i = 0; i < count; i++) {
    const size = view.getUint32(4 * (1 + i), LITTLE_ENDIAN);
    blobs.push(new Uint8Array(buffer, start, size));
    start += size;
  }
  const header = JSON.parse(new TextDecoder().decode(blobs[0]));
  const bitmaps = await Promise.all(header.bitmaps.map(unpackBitmap));
  const layers = blobs.slice(1).map((codes, i) => {
    const [heads, queries, keys] = header.layers[i];
    return new Layer({
      name: header.names[i],
      norm: header.norm[i],
      heads,
      queries,
      keys,
      codes,
      table: weightTable(header.enc[i], header.scale[i]),
      peak: header.scale[i],
      allowed: allowedCells(header.mask[i], bitmaps, queries, keys),
    });
  });
  return {
    kind: header.kind,
    causal: header.causal,
    note: header.note,
    queries: header.q,
    keys: header.k,
    layers,
    bytes: layers.reduce((sum, layer) => sum + layer.codes.length, 0),
  };
}

// The maps of one layer: (heads, queries, keys), one byte per cell, and the meaning of a byte.
export class Layer {
  constructor(parts) {
    Object.assign(this, { exact: null }, parts);
    this.cells = this.queries * this.keys;
  }

  get isSigned() {
    return this.norm === "signed";
  }

  weight(head, query, key) {
    const at = head * this.cells + query * this.keys + key;
    return this.exact ? this.exact[at] : this.table[this.codes[at]];
  }

  // Offset of the allowed cells of a head; all heads may share one mask.
  maskStart(head) {
    return this.allowed.length > this.cells ? head * this.cells : 0;
  }

  isAllowed(head, query, key) {
    return !this.allowed || this.allowed[this.maskStart(head) + query * this.keys + key] === 1;
  }

  row(head, query) {
    return Array.from({ length: this.keys }, (_, key) => this.weight(head, query, key));
  }

  // The keys with the largest weights of a query, in descending order: [{key, weight}].
  strongest(head, query, count) {
    const cells = [];
    for (let key = 0; key < this.keys; key++) {
      const weight = this.weight(head, query, key);
      if (weight !== 0 && this.isAllowed(head, query, key)) cells.push({ key, weight });
    }
    return cells.sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight)).slice(0, count);
  }
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export function weightTable(encoding, scale) {
  const table = new Float32Array(256);
  for (let code = 0; code < 256; code++) {
    const root = encoding === "s8sqrt" ? (code - 128) / 127 : code / 255;
    table[code] = scale * root * Math.abs(root);
  }
  return table;
}

const causalMasks = new Map();

function allowedCells(mask, bitmaps, queries, keys) {
  if (mask === "none") return null;
  if (mask !== "causal") return bitmaps[mask];
  const name = `${queries} ${keys}`;
  if (!causalMasks.has(name)) {
    const cells = new Uint8Array(queries * keys);
    for (let query = 0; query < queries; query++) {
      const end = Math.max(0, Math.min(keys, query + keys - queries + 1));
      cells.fill(1, query * keys, query * keys + end);
    }
    causalMasks.set(name, cells);
  }
  return causalMasks.get(name);
}

async function unpackBitmap({ shape, bits }) {
  const packed = Uint8Array.from(atob(bits), (letter) => letter.charCodeAt(0));
  const bytes = await inflate(packed);
  const size = shape.reduce((product, side) => product * side, 1);
  return Uint8Array.from({ length: size }, (_, i) => (bytes[i >> 3] >> (7 - (i & 7))) & 1);
}
