// The entry point: TensorBoard calls it when the tab opens.

import { followTheme } from "./host.js";
import { AblationsPage } from "./page.js";
import { Server } from "./server.js";
import { loadStyles } from "./styles.js";

export async function render() {
  document.documentElement.lang = "en";
  document.title = "Ablations";
  followTheme();
  const styles = loadStyles(["theme.css", "ablations.css"]);
  const page = new AblationsPage(new Server());
  const started = page.start(); // requests data while the styles load
  await styles;
  document.body.replaceChildren(page.element);
  window.focus();
  await started;
}
