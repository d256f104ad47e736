// Two pens with the same methods: one draws on a canvas, one writes SVG. Lengths are CSS pixels.

export const FONT_FAMILY =
  'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';

// Sets the size of a canvas in CSS pixels, which are its units from then on.
export function fit(canvas, { width, height }) {
  const [pixelsWide, pixelsHigh] = [width, height].map((side) =>
    Math.round(side * devicePixelRatio),
  );
  if (canvas.width !== pixelsWide || canvas.height !== pixelsHigh) {
    canvas.width = pixelsWide;
    canvas.height = pixelsHigh;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  canvas.getContext("2d").setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
}

// The theme's colours for an element.
export function inks(place) {
  const style = getComputedStyle(place);
  const names = ["paper", "soft", "strong", "accent", "line", "dots", "masked"];
  return Object.fromEntries(
    names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]),
  );
}

// Points are pairs of numbers; null lifts the pen.
export class CanvasPen {
  constructor(canvas, size) {
    fit(canvas, size);
    this.context = canvas.getContext("2d");
    this.context.clearRect(0, 0, size.width, size.height);
  }

  line(points, colour, { width = 1, dash = [], opacity = 1 } = {}) {
    const { context } = this;
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.lineJoin = "round";
    context.globalAlpha = opacity;
    context.setLineDash(dash);
    context.beginPath();
    this.#trace(points);
    context.stroke();
    context.setLineDash([]);
    context.globalAlpha = 1;
  }

  area(points, colour, opacity) {
    const { context } = this;
    context.fillStyle = colour;
    context.globalAlpha = opacity;
    context.beginPath();
    this.#trace(points);
    context.fill();
    context.globalAlpha = 1;
  }

  dot(x, y, radius, colour, ring = null) {
    const { context } = this;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fillStyle = colour;
    context.fill();
    if (!ring) return;
    context.strokeStyle = ring;
    context.lineWidth = 1;
    context.stroke();
  }

  text(words, x, y, colour, { align = "left", size = 11, turned = false } = {}) {
    const { context } = this;
    context.save();
    context.fillStyle = colour;
    context.font = `${size}px ${FONT_FAMILY}`;
    context.textAlign = align;
    context.translate(x, y);
    if (turned) context.rotate(-Math.PI / 2);
    context.fillText(words, 0, 0);
    context.restore();
  }

  width(words, size = 11) {
    this.context.font = `${size}px ${FONT_FAMILY}`;
    return this.context.measureText(words).width;
  }

  #trace(points) {
    let isDown = false;
    for (const point of points) {
      if (point === null) isDown = false;
      else if (isDown) this.context.lineTo(point[0], point[1]);
      else {
        this.context.moveTo(point[0], point[1]);
        isDown = true;
      }
    }
  }
}

const ANCHORS = { left: "start", center: "middle", right: "end" };

export class SvgPen {
  #parts = [];
  #measure = document.createElement("canvas").getContext("2d");

  constructor(size, paper) {
    this.size = size;
    this.#add("rect", { width: size.width, height: size.height, fill: paper });
  }

  line(points, colour, { width = 1, dash = [], opacity = 1 } = {}) {
    this.#add("path", {
      d: path(points),
      fill: "none",
      stroke: colour,
      "stroke-width": width,
      "stroke-linejoin": "round",
      "stroke-opacity": opacity,
      "stroke-dasharray": dash.join(" ") || "none",
    });
  }

  area(points, colour, opacity) {
    this.#add("path", { d: `${path(points)}Z`, fill: colour, "fill-opacity": opacity });
  }

  dot(x, y, radius, colour, ring = null) {
    this.#add("circle", { cx: x, cy: y, r: radius, fill: colour, stroke: ring ?? "none" });
  }

  text(words, x, y, colour, { align = "left", size = 11, turned = false } = {}) {
    const place = `translate(${x} ${y})${turned ? " rotate(-90)" : ""}`;
    const attributes = { transform: place, fill: colour, "font-size": size };
    this.#add("text", { ...attributes, "text-anchor": ANCHORS[align] }, words);
  }

  width(words, size = 11) {
    this.#measure.font = `${size}px ${FONT_FAMILY}`;
    return this.#measure.measureText(words).width;
  }

  // The file.
  toString() {
    const { width, height } = this.size;
    const root = make("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
    root.setAttribute("font-family", FONT_FAMILY);
    root.append(...this.#parts);
    return `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(root)}\n`;
  }

  #add(name, attributes, words) {
    const part = make(name, attributes);
    if (words !== undefined) part.textContent = words;
    this.#parts.push(part);
  }
}

function make(name, attributes) {
  const part = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) part.setAttribute(key, value);
  return part;
}

function path(points) {
  let isDown = false;
  return points
    .map((point) => {
      if (point === null) {
        isDown = false;
        return "";
      }
      const letter = isDown ? "L" : "M";
      isDown = true;
      return `${letter}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
    })
    .join("");
}
