// A list of tokens is one stop of the tab key, however long; arrow keys move within it.

import { setAttribute } from "./element.js";

// `keys`: the key of one back and that of one forth.
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

// Lets the tab key stop at one button of a list, and at no other.
export function stopAt(list, button) {
  const before = list.querySelectorAll('button[tabindex="0"]');
  for (const one of before) if (one !== button) setAttribute(one, "tabindex", -1);
  if (button) setAttribute(button, "tabindex", 0);
}
