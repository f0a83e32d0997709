// The film: 16-bit grey values with window and level, zoom, and a heat map over it.
import { fitted, follow } from "./pointers.js";
import { ramp } from "./colours.js";

const WHOLE = { width: 65535, level: 32767.5 };

export function createViewer(canvas, onChange) {
  const context = canvas.getContext("2d", { alpha: false });
  const grey = document.createElement("canvas"), heat = document.createElement("canvas");
  let film = null, map = null, opacity = 0.6, inverted = false, asked = false, stale = false;
  let window_ = { ...WHOLE }, view = { zoom: 1, x: 0, y: 0 };

  function paint() { // grey values through the window
    const { width, height } = film.facts, image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer), table = new Uint32Array(65536);
    const low = window_.level - window_.width / 2;
    for (let v = 0; v < 65536; v++) {
      let g = Math.round(Math.min(255, Math.max(0, ((v - low) / window_.width) * 255)));
      if (inverted) g = 255 - g;
      table[v] = 0xff000000 | (g << 16) | (g << 8) | g;
    }
    for (let i = 0; i < pixels.length; i++) pixels[i] = table[film.values[i]];
    grey.width = width;
    grey.height = height;
    grey.getContext("2d").putImageData(image, 0, 0);
    stale = false;
  }

  function paintMap() {
    const { width, height } = map.facts, image = new ImageData(width, height), values = map.values;
    let low = Infinity, high = -Infinity;
    for (const v of values) { low = Math.min(low, v); high = Math.max(high, v); }
    for (let i = 0; i < values.length; i++) {
      const share = (values[i] - low) / (high - low || 1), [r, g, b] = ramp(share);
      image.data.set([r, g, b, 255 * share * share], 4 * i);
    }
    heat.width = width;
    heat.height = height;
    heat.getContext("2d").putImageData(image, 0, 0);
  }

  function box() { // where the film lies, in CSS pixels
    const { film_width, film_height } = film.facts, { clientWidth, clientHeight } = canvas;
    const scale = Math.min(clientWidth / film_width, clientHeight / film_height) * view.zoom;
    const width = film_width * scale, height = film_height * scale;
    return { left: clientWidth / 2 - width / 2 + view.x, top: clientHeight / 2 - height / 2 + view.y, width, height };
  }

  function draw() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.fillStyle = "#000";
      context.fillRect(0, 0, canvas.width, canvas.height);
      if (!film) return;
      if (stale) paint();
      const ratio = canvas.width / canvas.clientWidth, { left, top, width, height } = box();
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.imageSmoothingQuality = "high";
      context.imageSmoothingEnabled = width * ratio < 4 * film.facts.width;
      context.drawImage(grey, left, top, width, height);
      if (!map || !opacity) return;
      context.imageSmoothingEnabled = true;
      context.globalAlpha = opacity;
      context.drawImage(heat, left, top, width, height);
      context.globalAlpha = 1;
      const [x, y] = map.facts.maximum, cx = left + x * width, cy = top + y * height;
      for (const [style, line] of [["#000", 3], ["#fff", 1.2]]) {
        context.strokeStyle = style;
        context.lineWidth = line;
        context.beginPath();
        context.moveTo(cx - 9, cy); context.lineTo(cx + 9, cy);
        context.moveTo(cx, cy - 9); context.lineTo(cx, cy + 9);
        context.stroke();
      }
    });
  }

  function tell() {
    const share = (v) => Math.round((100 * v) / 65535);
    onChange(film ? `window ${share(window_.width)} %, level ${share(window_.level)} %, zoom ${view.zoom.toFixed(1)}` : "");
  }

  const changed = () => { tell(); draw(); };
  follow(canvas, {
    start() {},
    drag(point, before, event) {
      const dx = point.x - before.x, dy = point.y - before.y;
      if (event.shiftKey || event.buttons === 4) return this.pan(dx, dy);
      window_.width = Math.min(4 * 65535, Math.max(650, window_.width + dx * 160));
      window_.level = Math.min(65535, Math.max(0, window_.level + dy * 100));
      stale = true;
      changed();
    },
    end() {},
    pan(dx, dy) { view = { ...view, x: view.x + dx, y: view.y + dy }; changed(); },
    zoom(point, factor) {
      const zoom = Math.min(20, Math.max(1, view.zoom * factor)), by = zoom / view.zoom;
      const cx = point.x - canvas.clientWidth / 2, cy = point.y - canvas.clientHeight / 2;
      view = zoom === 1 ? { zoom, x: 0, y: 0 } : { zoom, x: cx - (cx - view.x) * by, y: cy - (cy - view.y) * by };
      changed();
    },
  });
  fitted(canvas, draw);

  return {
    show(found) { film = found; map = null; stale = true; changed(); }, // window and zoom stay
    showMap(found) { map = found; if (map) paintMap(); draw(); },
    setOpacity(value) { opacity = value; draw(); },
    invert() { inverted = !inverted; stale = true; draw(); return inverted; },
    reset() { window_ = { ...WHOLE }; view = { zoom: 1, x: 0, y: 0 }; inverted = false; stale = true; changed(); },
  };
}
