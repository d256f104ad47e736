// Style sheets beside this module.

import { element } from "./element.js";

export function loadStyles(names) {
  return Promise.all(
    names.map((name) => {
      const href = new URL(name, import.meta.url).href;
      return new Promise((resolve) => {
        const options = { rel: "stylesheet", href, onload: resolve, onerror: resolve };
        document.head.append(element("link", options));
      });
    }),
  );
}
