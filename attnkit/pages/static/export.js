// Exports a part of the page as a picture, and numbers as a table.

const SHARPNESS = 2;
const MARGIN = 16;

export async function savePng(panel, name) {
  const box = panel.getBoundingClientRect();
  const height = panel.lastElementChild.getBoundingClientRect().bottom - box.top + MARGIN;
  const canvas = document.createElement("canvas");
  canvas.width = Math.ceil(box.width * SHARPNESS);
  canvas.height = Math.ceil(height * SHARPNESS);
  const context = canvas.getContext("2d");
  context.scale(SHARPNESS, SHARPNESS);
  context.fillStyle = getComputedStyle(document.body).backgroundColor;
  context.fillRect(0, 0, box.width, height);
  context.translate(-box.left, -box.top);
  drawElement(context, panel);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  download(blob, `${name}.png`);
}

export function saveCsv(rows, name) {
  const lines = rows.map((row) => row.map(csvField).join(","));
  saveText(`${lines.join("\r\n")}\r\n`, "text/csv", `${name}.csv`);
}

export function saveText(text, type, name) {
  download(new Blob([text], { type }), name);
}

// RFC 4180; an apostrophe precedes text that a spreadsheet would read as a formula.
export function csvField(value) {
  if (typeof value === "number") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

// A file name made of logged text.
export function fileName(...parts) {
  return parts.join("-").replace(/[^A-Za-z0-9._-]+/g, "_");
}

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// Draws an element as the browser shows it: its box, its text, its canvases. The pages contain
// nothing else.
function drawElement(context, part) {
  if (part.dataset.noexport === "true" || part.hidden || part.classList.contains("unseen")) return;
  const style = getComputedStyle(part);
  if (style.display === "none" || style.visibility === "hidden") return;
  const box = part.getBoundingClientRect();
  drawBox(context, box, style);
  context.save();
  if (style.overflow !== "visible") clip(context, box);
  drawContent(context, part, box, style);
  context.restore();
}

function clip(context, { left, top, width, height }) {
  context.beginPath();
  context.rect(left, top, width, height);
  context.clip();
}

function drawContent(context, part, box, style) {
  if (part instanceof HTMLCanvasElement) {
    context.imageSmoothingEnabled = style.imageRendering !== "pixelated";
    if (part.width && part.height)
      context.drawImage(part, box.left, box.top, box.width, box.height);
    return;
  }
  if (part instanceof HTMLSelectElement) {
    drawText(context, part.selectedOptions[0]?.textContent ?? "", box, style, 6);
    return;
  }
  for (const child of part.childNodes) {
    if (child.nodeType === Node.TEXT_NODE) drawLines(context, child, style);
    else if (child.nodeType === Node.ELEMENT_NODE) drawElement(context, child);
  }
}

function drawBox(context, { left, top, width, height }, style) {
  const rounded = (out) => {
    const radius = Number.parseFloat(style.borderTopLeftRadius) || 0;
    context.beginPath();
    context.roundRect(left - out, top - out, width + 2 * out, height + 2 * out, radius);
  };
  rounded(0);
  context.fillStyle = style.backgroundColor;
  context.fill();
  const outlined = style.outlineStyle !== "none" && Number.parseFloat(style.outlineWidth) > 0;
  const bordered = style.borderTopStyle !== "none" && Number.parseFloat(style.borderTopWidth) > 0;
  if (!outlined && !bordered) return;
  context.strokeStyle = outlined ? style.outlineColor : style.borderTopColor;
  context.lineWidth = Number.parseFloat(outlined ? style.outlineWidth : style.borderTopWidth);
  const out = outlined ? Number.parseFloat(style.outlineOffset) : -context.lineWidth;
  rounded(out + context.lineWidth / 2);
  context.stroke();
}

// A text node may be broken into lines, so the line of each character is queried.
function drawLines(context, node, style) {
  const range = document.createRange();
  const lines = [];
  for (let at = 0; at < node.length; at++) {
    range.setStart(node, at);
    range.setEnd(node, at + 1);
    const box = range.getBoundingClientRect();
    if (!box.height) continue;
    const line = lines.at(-1);
    if (line && Math.abs(line.box.top - box.top) < 2) line.text += node.data[at];
    else lines.push({ text: node.data[at], box });
  }
  for (const { text, box } of lines) drawText(context, text, box, style, 0);
}

function drawText(context, text, box, style, indent) {
  // The shorthand is empty for tabular digits.
  context.font = `${style.fontStyle} ${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
  context.fillStyle = style.color;
  context.textBaseline = "middle";
  context.textAlign = "left";
  context.letterSpacing = style.letterSpacing === "normal" ? "0px" : style.letterSpacing;
  const shown = style.textTransform === "uppercase" ? text.toUpperCase() : text;
  context.fillText(shown, box.left + indent, box.top + box.height / 2);
}
