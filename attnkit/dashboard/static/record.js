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
      lengths: header.lengths && numbersIn(header.lengths[i]),
    });
  });
  const sound = await unpackSound(header.sound);
  return {
    sound,
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
    Object.assign(this, { exact: null, isOfAllHeads: false }, parts);
    this.cells = this.queries * this.keys;
  }

  // A layer of exact numbers (heads, queries, keys). Colours need one byte per cell: the square root
  // of its part of the peak.
  static ofNumbers(parts, peak = largest(parts.exact)) {
    const { exact } = parts;
    const scale = peak || 1;
    const isSigned = parts.norm === "signed";
    const codes = new Uint8Array(exact.length); // `from` calls an iterator, which is slow
    for (let at = 0; at < codes.length; at++) {
      const root = Math.sign(exact[at]) * Math.sqrt(Math.abs(exact[at]) / scale);
      codes[at] = Math.max(0, Math.round(isSigned ? 128 + 127 * root : 255 * root));
    }
    const table = weightTable(isSigned ? "s8sqrt" : "u8sqrt", scale);
    return new Layer({ ...parts, codes, table, peak: scale });
  }

  headName(head) {
    return this.isOfAllHeads ? "all heads" : `head ${head}`;
  }

  headMark(head) {
    return this.isOfAllHeads ? "all" : `h${head}`;
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

// Base64 as bytes.
export function bytesIn(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

// Base64 as float32; null stays null.
export function numbersIn(text) {
  return text === null ? null : new Float32Array(bytesIn(text).buffer);
}

function largest(numbers) {
  let most = 0;
  for (const one of numbers) most = Math.max(most, Math.abs(one));
  return most;
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

// The sound that the keys are positions of, if there is one: its spectrogram and its samples.
export async function unpackSound(sound) {
  if (!sound) return null;
  const [bands, columns] = sound.shape;
  const strip = await inflate(bytesIn(sound.strip));
  const samples = new DataView((await inflate(bytesIn(sound.samples))).buffer);
  const wave = new Float32Array(sound.count);
  for (let i = 0; i < wave.length; i++) wave[i] = samples.getInt16(2 * i, LITTLE_ENDIAN) / 32768;
  return { bands, columns, strip, wave, rate: sound.rate };
}

async function unpackBitmap({ shape, bits }) {
  const bytes = await inflate(bytesIn(bits));
  const size = shape.reduce((product, side) => product * side, 1);
  return Uint8Array.from({ length: size }, (_, i) => (bytes[i >> 3] >> (7 - (i & 7))) & 1);
}
