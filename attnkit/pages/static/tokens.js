// Readable tokens: invisible characters, and those that would move other text, are escaped.

const INVISIBLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/gu;
const SHORT = { "\n": "\\n", "\t": "\\t", "\r": "\\r" };

export function visible(text) {
  const shown = text
    .replace(INVISIBLE, (letter) => SHORT[letter] ?? escape(letter))
    .replace(/[\p{Zs}]/gu, (letter) => (letter === " " ? "␣" : escape(letter)));
  return shown || "∅"; // an empty token
}

// A name or a note, with plain spaces.
export function readable(text) {
  return visible(text).replaceAll("␣", " ");
}

// A token, shortened for a narrow place.
export function short(text, letters = 12) {
  const shown = [...visible(text)];
  return shown.length > letters ? `${shown.slice(0, letters - 1).join("")}…` : shown.join("");
}

export function stepName(step) {
  return `step ${step.toLocaleString("en")}`;
}

export function quoted(text) {
  return `“${short(text, 24)}”`;
}

function escape(letter) {
  const code = letter.codePointAt(0).toString(16);
  return code.length > 4 ? `\\u{${code}}` : `\\u${code.padStart(4, "0")}`;
}

export function number(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 0.001 || size >= 10000) return value.toExponential(1).replace("-", "−");
  return value.toFixed(size < 10 ? 3 : 1).replace("-", "−");
}

// The parts of attention/<example>/<site>; any other tag is one part.
export function tagParts(tag) {
  const parts = tag.split("/");
  if (parts.length === 3) return { example: parts[1], site: parts[2] };
  return { example: "", site: tag };
}
