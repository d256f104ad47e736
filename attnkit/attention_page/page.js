"use strict";
// Everything that comes from the data is written by textContent or onto a canvas, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const state = { site: 0, layer: 0, head: 0, view: "matrix", scale: "row", query: null };

for (const site of data.sites) {
  for (const layer of site.layers) {
    layer.w = new Float32Array(bytes(layer.weights).buffer);
    layer.a = layer.allowed === null ? null : bytes(layer.allowed);
  }
}

const site = () => data.sites[state.site];
const layer = () => site().layers[state.layer];
const shown = (token) => token.replaceAll(" ", "\u2423").replaceAll("\n", "\\n")
  .replaceAll("\t", "\\t").replace(/[\u0000-\u001f\u007f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
const token = (text) => (text === "" ? "\u2205" : shown(text));
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function weight(of, head, query, key) {
  const queries = site().queries.length, keys = site().keys.length;
  return of.w[(head * queries + query) * keys + key];
}

function allowed(of, query, key) {
  return of.a === null || of.a[query * site().keys.length + key] === 1;
}

function peaks(of, head) {
  const queries = site().queries.length, keys = site().keys.length, rows = [];
  for (let q = 0; q < queries; q++) {
    let most = 0;
    for (let k = 0; k < keys; k++) most = Math.max(most, Math.abs(weight(of, head, q, k)));
    rows.push(most);
  }
  const all = Math.max(...rows);
  return state.scale === "row" ? rows : rows.map(() => all);
}

function colour(value, peak, signed) {
  const share = peak > 0 ? value / peak : 0;
  const ramp = signed ? data.diverging : data.sequential;
  const place = signed ? (share + 1) / 2 : Math.max(share, 0);
  return ramp[Math.min(ramp.length - 1, Math.round(place * (ramp.length - 1)))];
}

// A map as an image with one pixel per cell.
function paint(canvas, of, head) {
  const queries = site().queries.length, keys = site().keys.length;
  canvas.width = keys;
  canvas.height = queries;
  const context = canvas.getContext("2d"), image = context.createImageData(keys, queries);
  const most = peaks(of, head), masked = parseInt(style("--masked").slice(1), 16);
  for (let q = 0; q < queries; q++) {
    for (let k = 0; k < keys; k++) {
      const hex = parseInt(colour(weight(of, head, q, k), most[q], of.norm === "signed"), 16);
      const rgb = allowed(of, q, k) ? hex : masked;
      image.data.set([rgb >> 16, (rgb >> 8) & 255, rgb & 255, 255], 4 * (q * keys + k));
    }
  }
  context.putImageData(image, 0, 0);
}

function overview() {
  const columns = Math.max(...site().layers.map((of) => of.heads)), box = at("overview");
  box.style.gridTemplateColumns = `auto repeat(${columns}, auto)`;
  box.style.setProperty("--tile", `${Math.max(40, Math.min(150, Math.floor(440 / columns)))}px`);
  const label = (words) => {
    const span = document.createElement("span");
    span.className = "label";
    span.textContent = words;
    return span;
  };
  const parts = [label("")];
  for (let h = 0; h < columns; h++) parts.push(label(`H${h}`));
  site().layers.forEach((of, l) => {
    parts.push(label(of.name));
    for (let h = 0; h < columns; h++) {
      if (h >= of.heads) { parts.push(label("")); continue; }
      const canvas = document.createElement("canvas");
      paint(canvas, of, h);
      canvas.tabIndex = 0;
      canvas.setAttribute("role", "button");
      canvas.setAttribute("aria-label", `layer ${of.name}, head ${h}`);
      canvas.setAttribute("aria-selected", String(l === state.layer && h === state.head));
      canvas.addEventListener("click", () => choose(l, h));
      canvas.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(l, h); }
      });
      canvas.dataset.place = `${l},${h}`;
      parts.push(canvas);
    }
  });
  box.replaceChildren(...parts);
}

function choose(l, h) {
  state.layer = l;
  state.head = h;
  for (const canvas of at("overview").querySelectorAll("canvas")) {
    canvas.setAttribute("aria-selected", String(canvas.dataset.place === `${l},${h}`));
  }
  detail();
}

function read(query, key) {
  const line = at("reading");
  if (query === null) { line.textContent = "Point at a cell or a token."; return; }
  const bold = (text) => {
    const b = document.createElement("b");
    b.textContent = token(text);
    return b;
  };
  const value = weight(layer(), state.head, query, key);
  const words = allowed(layer(), query, key) ? value.toFixed(4) : "masked out";
  line.replaceChildren(bold(site().queries[query]), ` (query ${query}) takes from `,
    bold(site().keys[key]), ` (key ${key}): ${words}`);
}

function matrix() {
  const queries = site().queries, keys = site().keys, ratio = window.devicePixelRatio || 1;
  const longest = Math.max(queries.length, keys.length);
  const room = Math.max(560, Math.min(window.innerHeight - 280, at("detail").clientWidth - 140));
  const cell = Math.max(4, Math.min(56, Math.floor(room / longest)));
  const font = `${Math.min(14, Math.max(8, cell - 2))}px ui-monospace, "DejaVu Sans Mono", Menlo, monospace`;
  const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
  const labels = cell >= 8;
  context.font = font;
  const wide = (all) => Math.min(160, Math.max(...all.map((t) => context.measureText(token(t)).width)));
  const left = labels ? wide(queries) + 10 : 4, top = labels ? wide(keys) + 10 : 4;
  const width = left + keys.length * cell + 2, height = top + queries.length * cell + 2;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const small = document.createElement("canvas");
  paint(small, layer(), state.head);

  function draw(query, key) {
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, left, top, keys.length * cell, queries.length * cell);
    context.font = font;
    context.textBaseline = "middle";
    if (labels) {
      queries.forEach((t, q) => {
        context.fillStyle = style(q === query ? "--mark" : "--ink");
        context.textAlign = "right";
        context.fillText(token(t), left - 6, top + (q + 0.5) * cell, left - 6);
      });
      keys.forEach((t, k) => {
        context.save();
        context.translate(left + (k + 0.5) * cell, top - 6);
        context.rotate(-Math.PI / 2);
        context.fillStyle = style(k === key ? "--mark" : "--ink");
        context.textAlign = "left";
        context.fillText(token(t), 0, 0, top - 6);
        context.restore();
      });
    }
    if (query !== null) {
      context.strokeStyle = style("--mark");
      context.lineWidth = 2;
      context.strokeRect(left + key * cell, top + query * cell, cell, cell);
    }
  }

  canvas.addEventListener("mousemove", (event) => {
    const k = Math.floor((event.offsetX - left) / cell), q = Math.floor((event.offsetY - top) / cell);
    const inside = k >= 0 && q >= 0 && k < keys.length && q < queries.length;
    draw(inside ? q : null, inside ? k : null);
    read(inside ? q : null, k);
  });
  canvas.addEventListener("mouseleave", () => { draw(null, null); read(null); });
  draw(null, null);
  return canvas;
}

function lines() {
  const queries = site().queries, keys = site().keys, row = 20;
  const gap = Math.min(560, Math.max(260, 0.4 * at("detail").clientWidth));
  const space = "http://www.w3.org/2000/svg";
  const make = (kind, attributes) => {
    const element = document.createElementNS(space, kind);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const width = (all) => 8.1 * Math.min(24, Math.max(...all.map((t) => token(t).length))) + 16;
  const left = Math.max(70, width(queries)), right = Math.max(70, width(keys));
  const height = (Math.max(queries.length, keys.length) + 1.5) * row;
  const svg = make("svg", { width: left + gap + right, height });
  const most = peaks(layer(), state.head), signed = layer().norm === "signed";
  const strokes = make("g", { fill: "none" });
  svg.append(strokes);

  function draw() {
    const parts = [];
    queries.forEach((_, q) => {
      if (state.query !== null && state.query !== q) return;
      keys.forEach((_, k) => {
        const value = weight(layer(), state.head, q, k), share = Math.abs(value) / (most[q] || 1);
        if (!allowed(layer(), q, k) || share < 0.04) return;
        const x = left + 6, to = left + gap - 6, y = (q + 1.5) * row, end = (k + 1.5) * row;
        const middle = (x + to) / 2;
        parts.push(make("path", {
          d: `M${x} ${y}C${middle} ${y} ${middle} ${end} ${to} ${end}`,
          stroke: signed && value < 0 ? "#c2410c" : style("--mark"),
          "stroke-width": 0.5 + 2.5 * share,
          "stroke-opacity": state.query === null ? 0.55 * share : 0.15 + 0.85 * share,
        }));
      });
    });
    strokes.replaceChildren(...parts);
    for (const g of svg.querySelectorAll(".token")) {
      g.classList.toggle("chosen", Number(g.dataset.query) === state.query);
    }
  }

  const head = (words, x, anchor) => {
    const text = make("text", { x, y: row * 0.6, "text-anchor": anchor, opacity: 0.6 });
    text.textContent = words;
    svg.append(text);
  };
  head("query", left, "end");
  head("key", left + gap, "start");
  const place = (t, index, x, anchor, isQuery) => {
    const group = make("g", isQuery ? { class: "token", "data-query": index } : {});
    const text = make("text", { x, y: (index + 1.5) * row + 4, "text-anchor": anchor });
    const full = token(t);
    text.textContent = full.length > 24 ? `${full.slice(0, 23)}\u2026` : full;
    group.append(text);
    if (isQuery) {
      const over = () => {
        state.query = index;
        draw();
        let best = 0;
        keys.forEach((_, k) => {
          const one = Math.abs(weight(layer(), state.head, index, k));
          if (one > Math.abs(weight(layer(), state.head, index, best))) best = k;
        });
        read(index, best);
      };
      group.addEventListener("mouseenter", over);
    }
    svg.append(group);
  };
  queries.forEach((t, q) => place(t, q, left, "end", true));
  keys.forEach((t, k) => place(t, k, left + gap, "start", false));
  svg.addEventListener("mouseleave", () => { state.query = null; draw(); read(null); });
  draw();
  return svg;
}

function key() {
  const signed = layer().norm === "signed", ramp = signed ? data.diverging : data.sequential;
  const context = at("scale").getContext("2d");
  for (let x = 0; x < 160; x++) {
    context.fillStyle = `#${ramp[Math.floor(x / 160 * ramp.length)]}`;
    context.fillRect(x, 0, 1, 10);
  }
  const size = state.scale === "row"
    ? "the row's largest (an even row is all bright)" : "the map's largest";
  at("low").textContent = signed ? `minus ${size}` : "0";
  const masks = layer().a !== null && layer().a.includes(0);
  at("high").textContent = masks ? `${size}; flat grey: masked out` : size;
}

function detail() {
  const norm = { rows: "rows sum to 1", unnormalised: "rows need not sum to 1", signed: "weights of either sign" };
  at("name").textContent = `${layer().name}, head ${state.head}`;
  const what = `${site().kind}-attention; a row a query, a column a key; ${norm[layer().norm]}.`;
  const note = site().note.replace(/[^.]$/, "$&.");
  at("note").textContent = note ? `${what} ${note[0].toUpperCase()}${note.slice(1)}` : what;
  at("view").replaceChildren(state.view === "matrix" ? matrix() : lines());
  read(null);
  key();
}

function everything() {
  overview();
  detail();
}

function choice(ids, values, name) {
  ids.forEach((id, i) => at(id).addEventListener("click", () => {
    state[name] = values[i];
    ids.forEach((other) => at(other).setAttribute("aria-pressed", String(other === id)));
    everything();
  }));
}

choice(["matrix", "lines"], ["matrix", "lines"], "view");
choice(["by-row", "by-map"], ["row", "map"], "scale");
data.sites.forEach((one, i) => at("site").append(new Option(one.name, i)));
at("site").hidden = data.sites.length === 1;
at("site").addEventListener("change", (event) => {
  Object.assign(state, { site: Number(event.target.value), layer: 0, head: 0, query: null });
  everything();
});
document.addEventListener("keydown", (event) => {
  const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
  if (!step || event.target.tagName === "SELECT") return;
  event.preventDefault();
  const l = Math.min(site().layers.length - 1, Math.max(0, state.layer + step[0]));
  choose(l, Math.min(site().layers[l].heads - 1, Math.max(0, state.head + step[1])));
});
window.addEventListener("resize", detail);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", everything);
everything();
