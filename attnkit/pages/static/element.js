// Creates DOM elements. Text always becomes a text node, so logged data is never executed.

export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.className = value;
    else if (key.startsWith("aria-")) node.setAttribute(key, value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

// Fills a select with options, pairs of value and text, unless it has them already.
export function fill(select, options) {
  const listed = JSON.stringify(options);
  if (select.dataset.listed === listed) return;
  select.dataset.listed = listed;
  select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
}

// Writes only changes: most updates of a label change nothing.
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

export function setAttribute(target, name, value) {
  if (target.getAttribute(name) !== String(value)) target.setAttribute(name, value);
}
