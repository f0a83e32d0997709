// Three small charts as SVG: ROC curve, histogram of scores, learning curve.
import { NEGATIVE, POSITIVE } from "./colours.js";

const LEFT = 18, RIGHT = 137, TOP = 4, BOTTOM = 108; // of the plot, in a picture of 140 by 132

function add(svg, name, attributes, text = "") {
  const one = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
  one.textContent = text;
  svg.append(one);
}

const across = (share) => LEFT + share * (RIGHT - LEFT), up = (share) => BOTTOM - share * (BOTTOM - TOP);
const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

function frame(svg, lowest, highest, below, ticks) {
  svg.replaceChildren();
  add(svg, "path", { class: "axis", d: `M${LEFT} ${TOP}V${BOTTOM}H${RIGHT}` });
  add(svg, "text", { x: LEFT - 3, y: TOP + 8, "text-anchor": "end" }, highest);
  add(svg, "text", { x: LEFT - 3, y: BOTTOM, "text-anchor": "end" }, lowest);
  add(svg, "text", { x: (LEFT + RIGHT) / 2, y: 130, "text-anchor": "middle" }, below);
  for (const [share, text] of ticks) add(svg, "text", { x: across(share), y: 119, "text-anchor": share > 0.9 ? "end" : share < 0.1 ? "start" : "middle" }, text);
}

export function drawRoc(svg, roc, threshold) {
  frame(svg, "0", "1", "1 − specificity", [[0, "0"], [1, "1"]]);
  add(svg, "path", { class: "faint", fill: "none", d: path([[across(0), up(0)], [across(1), up(1)]]) });
  if (!roc.length) return;
  add(svg, "path", { d: path(roc.map(([x, y]) => [across(x), up(y)])), fill: "none", stroke: NEGATIVE, "stroke-width": 2 });
  const here = roc.filter(([, , at]) => at >= threshold).at(-1) ?? roc[0];
  add(svg, "circle", { cx: across(here[0]), cy: up(here[1]), r: 4, fill: "#fff" });
}

export function drawHistogram(svg, edges, histogram, threshold) {
  const low = edges[0], high = edges.at(-1), most = Math.max(1, ...Object.values(histogram).flat());
  frame(svg, "0", edges.length ? String(most) : "", "logit", edges.length ? [[0, low.toFixed(1)], [1, high.toFixed(1)]] : []);
  if (!edges.length) return;
  const share = (v) => (v - low) / (high - low || 1), width = (RIGHT - LEFT) / (edges.length - 1) / 2;
  for (const [name, fill, shift] of [["negative", NEGATIVE, 0], ["positive", POSITIVE, width]])
    histogram[name].forEach((count, i) => count && add(svg, "rect", {
      x: across(share(edges[i])) + shift, y: up(count / most), width: Math.max(0.5, width - 0.4), height: BOTTOM - up(count / most), fill,
    }));
  const x = across(Math.min(1, Math.max(0, share(threshold))));
  add(svg, "path", { d: `M${x} ${TOP}V${BOTTOM}`, stroke: "#fff", "stroke-width": 1.5 });
}

export function drawCurve(svg, curve) {
  const known = curve.filter((one) => one.auroc), sizes = known.map((one) => Math.log(one.labels));
  const low = Math.min(...sizes), high = Math.max(...sizes), x = (one) => across(high > low ? (Math.log(one.labels) - low) / (high - low) : 0.5);
  const ends = known.length > 1 ? [[0, String(known[0].labels)], [1, String(known.at(-1).labels)]] : known.length ? [[0.5, String(known[0].labels)]] : [];
  const y = (value) => up(Math.min(1, Math.max(0, (value - 0.4) / 0.6)));
  frame(svg, "0.4", "1", "labels", ends);
  add(svg, "path", { class: "faint", d: `M${LEFT} ${y(0.5)}H${RIGHT}` });
  for (const one of known) {
    const { low: from, high: to } = one.auroc;
    if (from !== null) add(svg, "path", { d: `M${x(one)} ${y(from)}V${y(to)}`, stroke: NEGATIVE, opacity: 0.6, "stroke-width": 2 });
    add(svg, "circle", { cx: x(one), cy: y(one.auroc.value), r: 3, fill: NEGATIVE });
  }
  if (known.length > 1) add(svg, "path", { d: path(known.map((one) => [x(one), y(one.auroc.value)])), fill: "none", stroke: NEGATIVE, "stroke-width": 1.5 });
}
