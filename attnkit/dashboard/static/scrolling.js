// Enlarged maps scroll together: what carries `data-scroll` in one panel moves with the others.

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
