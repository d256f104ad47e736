"use strict";
// Everything that comes from the data is written by textContent, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const WIDTH = 640,
  HEIGHT = 360,
  LEFT = 64,
  RIGHT = 16,
  TOP = 12,
  BOTTOM = 44;
const DASHES = ["", "7 4", "2 3", "9 3 2 3"]; // distinguish lines beyond eight colours
const colour = (variant) => `var(--c${variant % 8})`;
const dash = (variant) => DASHES[Math.floor(variant / 8) % DASHES.length];
const hidden = new Set();

function make(kind, attributes, words) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (words !== undefined) element.textContent = words;
  return element;
}

function short(value) {
  const size = Math.abs(value);
  for (const [unit, one] of [
    ["T", 1e12],
    ["G", 1e9],
    ["M", 1e6],
    ["k", 1e3],
  ]) {
    if (size >= one) return `${Number((value / one).toPrecision(4))}${unit}`;
  }
  return size > 0 && size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(4)));
}

// Round numbers in a range; of a logarithmic one, 1, 2 and 5 of each power of ten.
function ticks(low, high, count, logarithmic) {
  if (logarithmic) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const lead of [1, 2, 5]) found.push(lead * 10 ** power);
    }
    const inside = found.filter((value) => value >= low && value <= high);
    if (inside.length > 2)
      return inside.length > 9 ? inside.filter((v) => /^1/.test(v.toExponential())) : inside;
  }
  const rough = (high - low) / count,
    power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((lead) => lead * power >= rough);
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high + step * 1e-9; k++) found.push(k * step);
  return found;
}

// An axis: numbers to pixels.
function scale(low, high, from, to, logarithmic) {
  const of = logarithmic ? Math.log10 : (value) => value;
  const span = of(high) - of(low) || 1;
  const place = (value) => from + ((of(value) - of(low)) / span) * (to - from);
  return Object.assign(place, { low, high, logarithmic });
}

function frame(x, y, xName, yName, label) {
  const svg = make("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    role: "group",
    "aria-label": label,
  });
  for (const value of ticks(y.low, y.high, 6, y.logarithmic)) {
    svg.append(
      make("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
    );
    svg.append(make("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, short(value)));
  }
  for (const value of ticks(x.low, x.high, 6, x.logarithmic)) {
    svg.append(
      make("text", { x: x(value), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, short(value)),
    );
  }
  svg.append(
    make("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, xName),
  );
  svg.append(
    make(
      "text",
      { transform: `translate(14 ${(HEIGHT - BOTTOM) / 2}) rotate(-90)`, "text-anchor": "middle" },
      yName,
    ),
  );
  return svg;
}

function padded(values, logarithmic) {
  let low = Math.min(...values),
    high = Math.max(...values);
  if (logarithmic)
    return low === high
      ? [low / 1.5, high * 1.5]
      : [low / (high / low) ** 0.06, high * (high / low) ** 0.06];
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low - room, high + room];
}

const positive = (values) => values.every((value) => value > 0);
const finite = (value) => value !== null && Number.isFinite(value);

function nothing(box, words) {
  const line = document.createElement("p");
  line.className = "read";
  line.textContent = words;
  box.replaceChildren(line);
}

function read(line, parts) {
  line.replaceChildren(
    ...parts.flatMap(([bold, words]) => {
      const b = document.createElement("b");
      b.textContent = bold;
      return [b, words];
    }),
  );
}

function drawCurves() {
  const box = at("curves"),
    unit = at("curves-x").value;
  const shown = data.curves.filter((curve) => !hidden.has(curve.variant));
  if (!shown.length) {
    nothing(
      box,
      data.curves.length ? "All variants are hidden." : `No run has logged ${data.tag}.`,
    );
    return;
  }
  const lines = shown.map((curve) => ({
    ...curve,
    x: curve.steps.map((step) => step * (unit === "step" ? 1 : curve.per[unit])),
  }));
  const values = lines.flatMap((line) => [...line.low, ...line.high]).filter(finite);
  if (!values.length) {
    nothing(box, "No curve has a finite value.");
    return;
  }
  let low = Infinity,
    high = -Infinity,
    left = Infinity,
    right = -Infinity,
    above = true;
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
    above &&= value > 0;
  }
  for (const line of lines) {
    left = Math.min(left, line.x[0]);
    right = Math.max(right, line.x.at(-1));
  }
  const logarithmic = at("curves-log").checked && above;
  const [bottom, top] = padded([low, high], logarithmic);
  const x = scale(left, right === left ? left + 1 : right, LEFT, WIDTH - RIGHT);
  const y = scale(bottom, top, HEIGHT - BOTTOM, TOP, logarithmic);
  const svg = frame(
    x,
    y,
    unit,
    data.tag,
    `${data.tag} over ${unit}: ${shown.length} variants; arrow keys move along`,
  );
  svg.tabIndex = 0;
  for (const line of lines) {
    const path = (numbers, order) =>
      order
        .filter((i) => finite(numbers[i]))
        .map((i) => `${x(line.x[i]).toFixed(1)} ${y(numbers[i]).toFixed(1)}`);
    const order = line.x.map((_, i) => i),
      back = order.toReversed();
    svg.append(
      make("path", {
        class: "band",
        fill: colour(line.variant),
        d: `M${[...path(line.high, order), ...path(line.low, back)].join("L")}Z`,
      }),
    );
    const drawn = make("path", {
      class: "line",
      stroke: colour(line.variant),
      "stroke-dasharray": dash(line.variant),
      d: `M${path(line.mean, order).join("L")}`,
    });
    drawn.append(make("title", {}, data.variants[line.variant]));
    svg.append(drawn);
  }
  const cross = make("line", {
    class: "cross",
    y1: TOP,
    y2: HEIGHT - BOTTOM,
    visibility: "hidden",
  });
  svg.append(cross);
  const longest = lines.reduce((a, b) => (b.x.length > a.x.length ? b : a));
  let place = longest.x.length - 1;
  const nearest = (line, value) =>
    line.x.reduce(
      (best, one, i) => (Math.abs(one - value) < Math.abs(line.x[best] - value) ? i : best),
      0,
    );
  function point(value) {
    cross.setAttribute("x1", x(value));
    cross.setAttribute("x2", x(value));
    cross.setAttribute("visibility", "visible");
    const parts = lines
      .filter((line) => value >= line.x[0] - 1e-9 && value <= line.x.at(-1) * (1 + 1e-9))
      .map((line) => {
        const i = nearest(line, value);
        const range =
          line.low[i] === line.high[i] ? "" : ` (${short(line.low[i])} to ${short(line.high[i])})`;
        return [
          data.variants[line.variant],
          finite(line.mean[i]) ? ` ${short(line.mean[i])}${range}   ` : " not finite   ",
        ];
      });
    read(at("curves-read"), [[`${unit} ${short(value)}`, ":  "], ...parts]);
  }
  svg.addEventListener("mousemove", (event) => {
    const area = svg.getBoundingClientRect();
    const share =
      (((event.clientX - area.left) / area.width) * WIDTH - LEFT) / (WIDTH - RIGHT - LEFT);
    if (share < 0 || share > 1) return;
    place = nearest(longest, x.low + share * (x.high - x.low));
    point(longest.x[place]);
  });
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1, PageUp: 10, PageDown: -10 }[event.key];
    if (!by) return;
    event.preventDefault();
    place = Math.max(0, Math.min(longest.x.length - 1, place + by));
    point(longest.x[place]);
  });
  at("curves-read").textContent =
    "Line: mean over seeds; band: lowest to highest seed. Point at the plot, or use the arrow keys.";
  box.replaceChildren(svg);
}

function drawCosts() {
  const box = at("costs"),
    key = at("costs-x").value;
  const drawn = data.points
    .map((point, variant) => ({ ...point, variant, x: point[key] }))
    .filter((point) => finite(point.x) && finite(point.mean));
  if (!drawn.length) {
    nothing(box, "The runs do not have this metric.");
    return;
  }
  const xs = drawn.map((point) => point.x),
    wide = positive(xs) && Math.max(...xs) / Math.min(...xs) > 4;
  const x = scale(...padded(xs, wide), LEFT, WIDTH - RIGHT, wide);
  const y = scale(
    ...padded(
      drawn.flatMap((point) => [point.mean, point.low ?? point.mean, point.high ?? point.mean]),
    ),
    HEIGHT - BOTTOM,
    TOP,
  );
  const svg = frame(
    x,
    y,
    data.costs[key] + (wide ? " (logarithmic)" : ""),
    data.metric,
    `${data.metric} against ${data.costs[key]}`,
  );
  const taken = [];
  for (const point of drawn) {
    const name = data.variants[point.variant],
      px = x(point.x),
      py = y(point.mean);
    const range = finite(point.low) ? ` (95 %: ${short(point.low)} to ${short(point.high)})` : "";
    const words = `${name}: ${data.metric} ${short(point.mean)}${range}, ${data.costs[key]} ${short(point.x)}`;
    const group = make("g", { class: "point", tabindex: 0, role: "img", "aria-label": words });
    group.append(make("title", {}, words));
    if (finite(point.low))
      group.append(
        make("path", {
          d: `M${px} ${y(point.low)}V${y(point.high)}M${px - 5} ${y(point.low)}h10M${px - 5} ${y(point.high)}h10`,
          stroke: colour(point.variant),
          "stroke-width": 1.5,
          fill: "none",
        }),
      );
    group.append(make("circle", { cx: px, cy: py, r: 6, fill: colour(point.variant) }));
    // A name goes beside its point, on the side with room, and further down if one is in the way.
    const cut = name.length > 28 ? `${name.slice(0, 27)}\u2026` : name;
    const size = cut.length * 6.6,
      right = px + 12 + size < WIDTH - RIGHT;
    let height = py + 4;
    const edge = right ? px + 12 : px - 12 - size;
    while (
      taken.some(
        (other) =>
          Math.abs(other.height - height) < 13 &&
          edge < other.edge + other.size &&
          other.edge < edge + size,
      )
    )
      height += 13;
    const fits = height < HEIGHT - BOTTOM; // otherwise only in the table, with its colour
    if (fits) taken.push({ height, edge, size });
    if (fits)
      group.append(
        make(
          "text",
          {
            class: "name",
            x: right ? px + 12 : px - 12,
            y: height,
            "text-anchor": right ? "start" : "end",
          },
          cut,
        ),
      );
    const say = () => {
      read(at("costs-read"), [[name, words.slice(name.length)]]);
      mark(point.variant);
    };
    group.addEventListener("mouseenter", say);
    group.addEventListener("focus", say);
    group.addEventListener("mouseleave", () => mark(null));
    group.addEventListener("blur", () => mark(null));
    svg.append(group);
  }
  at("costs-read").textContent =
    "Bars: 95 % interval of the mean. Point at a variant, or go there with the tab key.";
  box.replaceChildren(svg);
}

function mark(variant) {
  for (const row of document.querySelectorAll("tbody tr"))
    row.classList.toggle("pointed", Number(row.dataset.variant) === variant);
}

function legend() {
  at("legend").replaceChildren(
    ...data.curves.map((curve) => {
      const button = document.createElement("button"),
        dot = document.createElement("i");
      button.type = "button";
      dot.className = "dot";
      dot.style.setProperty("--own", colour(curve.variant));
      button.append(dot, data.variants[curve.variant]);
      button.setAttribute("aria-pressed", "true");
      button.addEventListener("click", () => {
        if (!hidden.delete(curve.variant)) hidden.add(curve.variant);
        button.setAttribute("aria-pressed", String(!hidden.has(curve.variant)));
        drawCurves();
      });
      return button;
    }),
  );
}

// Sorts rows by a column: numbers by value, names alphabetically, missing values last.
function sortable(table) {
  const heads = [...table.querySelectorAll("thead th")],
    body = table.tBodies[0];
  heads.forEach((head, column) =>
    head.querySelector("button").addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.key;
      const rows = [...body.rows].sort((a, b) => {
        if ((key(a) === "") !== (key(b) === "")) return key(a) === "" ? 1 : -1;
        return (Number(key(a)) - Number(key(b))) * (ascending ? 1 : -1);
      });
      body.append(...rows);
    }),
  );
  for (const row of body.rows)
    row.querySelector(".dot").style.setProperty("--own", colour(Number(row.dataset.variant)));
}

at("curves-title").textContent = `Learning curves: ${data.tag}`;
at("costs-title").textContent =
  `${data.metric} (${data.lowerIsBetter ? "lower" : "higher"} is better)`;
for (const unit of ["step", "tokens", "seconds", "FLOPs"])
  at("curves-x").append(new Option(unit, unit));
for (const [key, words] of Object.entries(data.costs)) at("costs-x").append(new Option(words, key));
const spread = (key) =>
  Math.max(...data.points.map((p) => p[key])) > 1.01 * Math.min(...data.points.map((p) => p[key]));
at("costs-x").value = Object.keys(data.costs).find(spread) ?? "parameters";
at("curves-x").addEventListener("change", drawCurves);
at("curves-log").addEventListener("change", drawCurves);
at("costs-x").addEventListener("change", drawCosts);
sortable(document.querySelector("table"));
legend();
drawCurves();
drawCosts();
