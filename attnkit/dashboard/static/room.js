// The visible height of a panel below the top of one of its parts, in CSS pixels.

export function roomBelow(part) {
  const panel = part.closest(".panel");
  const above = part.getBoundingClientRect().top - panel.getBoundingClientRect().top;
  return panel.parentElement.clientHeight - above;
}
