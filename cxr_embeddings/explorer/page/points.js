// The map: points that are drawn pixel by pixel, without WebGL, so that it is the same on every machine.
import { fitted, follow } from "./pointers.js";

const MOVING = 120000; // points that are drawn at most while the map moves
const NEAR = 12; // CSS pixels within which a point is under the pointer

export function createMap(canvas, marks, { onHover, onPick, onSelect }) {
  const context = canvas.getContext("2d", { alpha: false }), over = marks.getContext("2d");
  let at = new Float32Array(0), colours = new Uint32Array(0), order = new Uint32Array(0);
  let image = null, view = { x: 0, y: 0, scale: 1 }, home = view;
  let lasso = null, lassoing = false, asked = false, settle = 0, moving = false;
  let current = -1, near = [], hovered = -1, selected = new Set();

  const ratio = () => canvas.width / Math.max(1, canvas.clientWidth);
  const place = (i) => ({ // of a point, in CSS pixels
    x: (at[2 * i] - view.x) * view.scale + canvas.clientWidth / 2,
    y: canvas.clientHeight / 2 - (at[2 * i + 1] - view.y) * view.scale,
  });

  function stamp(radius, width) { // of a disc: offsets in the picture, and how far each pixel is covered
    const reach = Math.ceil(radius + 0.5), offset = [], cover = [];
    for (let y = -reach; y <= reach; y++)
      for (let x = -reach; x <= reach; x++) {
        const covered = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(x, y)));
        if (covered > 0.05) { offset.push(y * width + x); cover.push(covered); }
      }
    return { reach, offset: Int32Array.from(offset), cover: Float32Array.from(cover) };
  }

  function drawPoints() {
    const { width, height } = canvas, count = order.length;
    if (image?.width !== width || image?.height !== height) image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer), scale = view.scale * ratio();
    pixels.fill(0xff000000);
    const zoom = Math.sqrt(Math.max(1, view.scale / home.scale));
    const plain = count > 50000 ? 0.9 : count > 8000 ? 1.5 : count > 1500 ? 2.3 : 3.6;
    const { reach, offset, cover } = stamp(Math.min(6, plain * zoom) * ratio(), width);
    const step = moving ? Math.max(1, Math.ceil(count / MOVING)) : 1;
    const left = width / 2 - view.x * scale, top = height / 2 + view.y * scale;
    for (let k = 0; k < count; k += step) {
      const i = order[k], x = Math.round(at[2 * i] * scale + left), y = Math.round(top - at[2 * i + 1] * scale);
      if (x < reach || y < reach || x >= width - reach || y >= height - reach) continue;
      const colour = colours[i], start = y * width + x;
      for (let j = 0; j < offset.length; j++) {
        const to = start + offset[j], c = cover[j];
        if (c === 1) { pixels[to] = colour; continue; }
        const under = pixels[to];
        pixels[to] = 0xff000000
          | ((((colour >> 16) & 255) * c + ((under >> 16) & 255) * (1 - c)) << 16)
          | ((((colour >> 8) & 255) * c + ((under >> 8) & 255) * (1 - c)) << 8)
          | ((colour & 255) * c + (under & 255) * (1 - c));
      }
    }
    context.putImageData(image, 0, 0);
  }

  function ring(i, radius, style, width) {
    const { x, y } = place(i);
    over.beginPath();
    over.arc(x, y, radius, 0, 7);
    over.strokeStyle = style;
    over.lineWidth = width;
    over.stroke();
  }

  function drawMarks() {
    over.setTransform(1, 0, 0, 1, 0, 0);
    over.clearRect(0, 0, marks.width, marks.height);
    over.setTransform(ratio(), 0, 0, ratio(), 0, 0);
    if (selected.size && selected.size < 3000) for (const i of selected) ring(i, 4.5, "#ffffffaa", 1);
    for (const i of near) ring(i, 6, "#cc79a7", 2);
    if (hovered >= 0) ring(hovered, 7, "#fff", 1);
    if (current >= 0) { ring(current, 8, "#000", 4); ring(current, 8, "#fff", 2); }
    if (!lasso) return;
    over.beginPath();
    lasso.forEach(({ x, y }) => over.lineTo(x, y));
    over.closePath();
    over.fillStyle = "#ffffff22"; over.fill();
    over.strokeStyle = "#fff"; over.lineWidth = 1; over.stroke();
  }

  function draw() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; drawPoints(); drawMarks(); });
  }

  function move(change) { // points are thinned until the map rests
    view = { ...view, ...change };
    moving = true;
    clearTimeout(settle);
    settle = setTimeout(() => { moving = false; draw(); }, 150);
    draw();
  }

  function fit() {
    const low = [Infinity, Infinity], high = [-Infinity, -Infinity];
    for (let i = 0; i < at.length; i++) {
      low[i & 1] = Math.min(low[i & 1], at[i]);
      high[i & 1] = Math.max(high[i & 1], at[i]);
    }
    if (!at.length) return draw();
    const wide = Math.max(high[0] - low[0], 1e-6), tall = Math.max(high[1] - low[1], 1e-6);
    const scale = 0.92 * Math.min(canvas.clientWidth / wide, canvas.clientHeight / tall);
    home = view = { x: (low[0] + high[0]) / 2, y: (low[1] + high[1]) / 2, scale: scale > 0 && scale < 1e5 ? scale : 100 };
    draw();
  }

  function under({ x, y }) {
    let best = -1, least = NEAR * NEAR;
    for (let i = 0; i < at.length / 2; i++) {
      const point = place(i), square = (point.x - x) ** 2 + (point.y - y) ** 2;
      if (square < least) { least = square; best = i; }
    }
    return best;
  }

  function inside(polygon) {
    const found = [];
    for (let i = 0; i < at.length / 2; i++) {
      const { x, y } = place(i);
      let odd = false;
      for (let j = 0, k = polygon.length - 1; j < polygon.length; k = j++) {
        const a = polygon[j], b = polygon[k];
        if (a.y > y !== b.y > y && x < ((b.x - a.x) * (y - a.y)) / (b.y - a.y) + a.x) odd = !odd;
      }
      if (odd) found.push(i);
    }
    return found;
  }

  follow(canvas, {
    start(point, event) { lasso = lassoing || event.shiftKey ? [point] : null; },
    drag(point, before) {
      if (lasso) { lasso.push(point); drawMarks(); } else this.pan(point.x - before.x, point.y - before.y);
    },
    end(point, moved) {
      const drawn = lasso;
      lasso = null;
      if (drawn && moved) { selected = new Set(inside(drawn)); onSelect([...selected]); }
      else if (!moved) { const i = under(point); if (i >= 0) onPick(i); }
      draw();
    },
    hover(point) {
      const i = point ? under(point) : -1;
      if (i === hovered) return;
      hovered = i;
      canvas.style.cursor = i >= 0 ? "pointer" : "grab";
      onHover(i);
      drawMarks();
    },
    pan(dx, dy) { move({ x: view.x - dx / view.scale, y: view.y + dy / view.scale }); },
    zoom(point, factor) {
      const scale = Math.min(1e3 * home.scale, Math.max(0.2 * home.scale, view.scale * factor));
      const dx = point.x - canvas.clientWidth / 2, dy = canvas.clientHeight / 2 - point.y;
      move({ x: view.x + dx / view.scale - dx / scale, y: view.y + dy / view.scale - dy / scale, scale });
    },
  });
  fitted(canvas, () => { if (view === home) fit(); else draw(); }); // a view that was chosen stays
  fitted(marks, drawMarks);

  return {
    fit,
    setPoints(coordinates) { at = coordinates; fit(); },
    // Packed ABGR of each point, and the points from the back to the front.
    setColours(packed, back) { colours = packed; order = back; draw(); },
    setCurrent(i, others = []) { current = i; near = others; drawMarks(); },
    setLasso(on) { lassoing = on; },
    get selected() { return selected; },
  };
}
