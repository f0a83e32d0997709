// Mouse, pen and fingers on a canvas, as drags and pinches in CSS pixels.

// `handle` has: start(point, event) -> anything; drag(point, before, event); end(point, moved, event);
// zoom(point, factor); pan(dx, dy). All are called with points of the canvas.
export function follow(canvas, handle) {
  const down = new Map();
  let travelled = 0;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  const middle = () => {
    const [a, b] = [...down.values()];
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, apart: Math.hypot(a.x - b.x, a.y - b.y) };
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, at(event));
    travelled = down.size === 1 ? 0 : Infinity;
    if (down.size === 1) handle.start(at(event), event);
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = down.get(event.pointerId), now = at(event);
    if (!before) return handle.hover?.(now);
    if (down.size === 2) {
      const old = middle();
      down.set(event.pointerId, now);
      const fresh = middle();
      handle.pan(fresh.x - old.x, fresh.y - old.y);
      if (old.apart > 0) handle.zoom(fresh, fresh.apart / old.apart);
      return;
    }
    travelled += Math.hypot(now.x - before.x, now.y - before.y);
    down.set(event.pointerId, now);
    handle.drag(now, before, event);
  });
  const up = (event) => {
    if (!down.delete(event.pointerId) || down.size) return;
    handle.end(at(event), travelled > 4, event);
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("pointerleave", () => down.size || handle.hover?.(null));
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    handle.zoom(at(event), Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)));
  }, { passive: false });
}

// Keeps a canvas as large as it is shown, in pixels of the screen; calls `draw` after a change.
export function fitted(canvas, draw) {
  new ResizeObserver(() => {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    draw();
  }).observe(canvas);
}
