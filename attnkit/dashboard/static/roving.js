// A list of tokens is one tab stop; arrow keys move within it.

import { setAttribute } from "./element.js";

// `keys`: the key for backwards and the key for forwards.
export function rove(list, keys) {
  list.addEventListener("keydown", (event) => {
    const by = { [keys[0]]: -1, [keys[1]]: 1 }[event.key];
    if (!by || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    event.preventDefault();
    event.stopPropagation();
    const buttons = [...list.querySelectorAll("button")];
    buttons[buttons.indexOf(event.target) + by]?.focus();
  });
  list.addEventListener("focusin", ({ target }) => stopAt(list, target));
}

// Makes one button of a list its only tab stop.
export function stopAt(list, button) {
  const before = list.querySelectorAll('button[tabindex="0"]');
  for (const one of before) if (one !== button) setAttribute(one, "tabindex", -1);
  if (button) setAttribute(button, "tabindex", 0);
}
