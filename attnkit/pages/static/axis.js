// An axis: maps numbers to pixels, and chooses the round numbers of its labels.

const PLACES = {
  linear: (value) => value,
  log: (value) => Math.log10(value),
  log1p: (value) => Math.log1p(Math.max(0, value)),
};

export class Axis {
  // `kind`: linear, log (of positive numbers) or log1p (from 0).
  constructor({ low, high, kind = "linear" }, from, to) {
    Object.assign(this, { low, high, kind, from, to });
    this.place = PLACES[kind];
    this.start = this.place(low);
    this.span = this.place(high) - this.start || 1;
  }

  at(value) {
    return this.from + ((this.place(value) - this.start) / this.span) * (this.to - this.from);
  }

  // Round numbers in the range; on a logarithmic axis powers of ten, or also 2 and 5 times these.
  ticks(count) {
    const { low, high } = this;
    if (this.kind === "log") {
      const found = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
        for (const lead of [1, 2, 5]) found.push(lead * 10 ** power);
      }
      const inside = found.filter((value) => value >= low && value <= high);
      const powers = inside.filter((value) => value.toExponential().startsWith("1e"));
      if (inside.length > 2) return inside.length > count + 3 ? powers : inside;
    }
    if (this.kind === "log1p" && high - low > 20) {
      const powers = Array.from({ length: 16 }, (_, power) => 10 ** power);
      return [0, ...powers].filter((value) => value >= low && value <= high);
    }
    const rough = (high - low) / count || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((lead) => lead * power >= rough * (1 - 1e-9));
    const first = Math.ceil(low / step - 1e-9);
    const number = Math.floor(high / step + 1e-9) - first + 1;
    return Array.from({ length: Math.max(0, number) }, (_, i) => (first + i) * step);
  }
}

// A range with room at both ends.
export function padded(low, high, isLog = false) {
  if (isLog) {
    const room = low === high ? 1.5 : (high / low) ** 0.06;
    return { low: low / room, high: high * room, kind: "log" };
  }
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return { low: low - room, high: high + room, kind: "linear" };
}

// The smallest and the largest finite number in arrays; null if there is none.
export function extent(arrays) {
  let [low, high] = [Infinity, -Infinity];
  for (const values of arrays) {
    for (const value of values) {
      if (value === null || !Number.isFinite(value)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return low <= high ? [low, high] : null;
}

// A number in few characters: 1.234M, 20k, 0.05.
export function brief(value) {
  const size = Math.abs(value);
  for (const [unit, one] of [
    ["T", 1e12],
    ["G", 1e9],
    ["M", 1e6],
    ["k", 1e3],
  ]) {
    if (size >= one) return signed(`${Number((value / one).toPrecision(4))}${unit}`);
  }
  const text =
    size > 0 && size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(4)));
  return signed(text);
}

function signed(text) {
  return text.replaceAll("-", "−");
}
