// Colours that colour-blind eyes tell apart: Okabe and Ito's for categories, viridis for numbers.

export const POSITIVE = "#e69f00", NEGATIVE = "#56b4e9", UNKNOWN = "#b8bec6", NONE = "#4b555f";
export const CATEGORIES = ["#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2", "#ffffff"];
const STOPS = [[68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137],
  [53, 183, 121], [109, 205, 89], [180, 222, 44], [253, 231, 37]]; // of viridis, in even steps

export function ramp(share) {
  const at = Math.min(1, Math.max(0, share)) * (STOPS.length - 1), i = Math.min(STOPS.length - 2, Math.floor(at));
  return STOPS[i].map((one, c) => Math.round(one + (STOPS[i + 1][c] - one) * (at - i)));
}

export const packed = ([r, g, b]) => (0xff000000 | (b << 16) | (g << 8) | r) >>> 0;
export const bytes = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
