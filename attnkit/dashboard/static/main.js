// The entry point: TensorBoard calls it when the tab opens.

import { Dashboard } from "./dashboard.js";
import { element } from "./element.js";
import { followTheme } from "./host.js";

const STYLES = [
  "theme.css",
  "frame.css",
  "sidebar.css",
  "view_matrix.css",
  "view_lines.css",
  "view_tokens.css",
  "view_heads.css",
  "view_difference.css",
];

export async function render() {
  document.documentElement.lang = "en";
  document.title = "Attention";
  followTheme();
  await Promise.all(STYLES.map(load));
  const dashboard = new Dashboard();
  document.body.replaceChildren(dashboard.element);
  window.focus();
  await dashboard.start();
}

function load(name) {
  return new Promise((resolve) => {
    const href = new URL(name, import.meta.url).href;
    const link = element("link", { rel: "stylesheet", href, onload: resolve, onerror: resolve });
    document.head.append(link);
  });
}
