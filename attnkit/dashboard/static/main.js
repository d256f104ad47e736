// The entry point: TensorBoard calls it when the tab opens.

import { Server } from "./api.js";
import { Dashboard } from "./dashboard.js";
import { followTheme } from "./host.js";
import { loadStyles } from "./styles.js";

const STYLES = [
  "theme.css",
  "frame.css",
  "sidebar.css",
  "view_matrix.css",
  "view_lines.css",
  "view_tokens.css",
  "view_heads.css",
  "view_clinic.css",
  "view_contributions.css",
  "view_difference.css",
];

export async function render() {
  document.documentElement.lang = "en";
  document.title = "Attention";
  followTheme();
  await loadStyles(STYLES);
  const dashboard = new Dashboard(new Server());
  document.body.replaceChildren(dashboard.element);
  window.focus();
  await dashboard.start();
}
