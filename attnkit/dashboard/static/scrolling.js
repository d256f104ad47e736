// Enlarged maps scroll together: what carries `data-scroll` in one panel moves with the others. And
// what the keyboard reaches is scrolled to.

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
    // The page itself is not moved aside: that would take other panels out of sight.
    if (box.dataset.scroll)
      box.scrollLeft += outside(place.left, place.right, seen.left, seen.right);
  }
}

// How far a part lies before (negative) or behind what is seen, and some room more.
function outside(start, end, low, high) {
  if (start < low) return start - low - ROOM;
  return end > high ? end - high + ROOM : 0;
}
