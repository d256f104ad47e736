// Enlarged maps scroll together: elements with `data-scroll` move in all panels. Focused elements
// are scrolled into view.

const ROOM = 40;

export function linkScrolling(stage) {
  stage.addEventListener(
    "scroll",
    ({ target }) => {
      if (!target.dataset?.scroll) return;
      for (const other of stage.querySelectorAll(`[data-scroll="${target.dataset.scroll}"]`)) {
        if (other === target) continue;
        if (other.scrollLeft !== target.scrollLeft) other.scrollLeft = target.scrollLeft;
        if (other.scrollTop !== target.scrollTop) other.scrollTop = target.scrollTop;
      }
    },
    { capture: true, passive: true },
  );
}

export function reveal(part) {
  for (const box of [part.closest("[data-scroll]"), part.closest(".stage")].filter(Boolean)) {
    const place = part.getBoundingClientRect();
    const seen = box.getBoundingClientRect();
    box.scrollTop += outside(place.top, place.bottom, seen.top, seen.bottom);
    // The page itself does not scroll sideways: that would hide other panels.
    if (box.dataset.scroll)
      box.scrollLeft += outside(place.left, place.right, seen.left, seen.right);
  }
}

// The distance of a part before (negative) or after the visible range, with a margin.
function outside(start, end, low, high) {
  if (start < low) return start - low - ROOM;
  return end > high ? end - high + ROOM : 0;
}
