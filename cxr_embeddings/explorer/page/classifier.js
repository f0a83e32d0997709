// The panel of the classifier: what cross-validation says of it, and its operating point.
import { drawCurve, drawHistogram, drawRoc } from "./charts.js";
import { ask } from "./server.js";

const $ = (id) => document.getElementById(id);
const three = (v) => v.toFixed(3), two = (v) => v.toFixed(2);
const within = (found, digits) => found.low === null ? "" : ` [${digits(found.low)} to ${digits(found.high)}]`;
const EMPTY = { labels: 0, positives: 0, roc: [], edges: [], histogram: {}, curve: [], thresholds: {}, warnings: [], auroc: null };

export function createClassifier() {
  let finding = "", found = EMPTY, threshold = 0, byHand = false, asked = 0, latest = 0, timer = 0;

  function draw() {
    drawRoc($("roc"), found.roc, threshold);
    drawHistogram($("histogram"), found.edges, found.histogram, threshold);
    drawCurve($("curve"), found.curve);
  }

  function cell(value) {
    const td = document.createDocumentFragment(), small = document.createElement("small");
    td.append(value ? two(value.value) : "–");
    if (value) { small.textContent = within(value, two); td.append(small); }
    return td;
  }

  function fillRates(rates) {
    const cells = [...$("rates").querySelectorAll("td")];
    ["sensitivity", "specificity", "ppv", "npv"].forEach((name, i) => cells[i].replaceChildren(rates ? cell(rates[name]) : "–"));
    cells[4].textContent = rates ? `found ${rates.tp}, missed ${rates.fn}, false alarms ${rates.fp}, correctly negative ${rates.tn}` : "–";
  }

  async function showRates() {
    const mine = ++latest;
    if (!found.auroc) return fillRates(null);
    const { rates } = await ask("rates", { finding, threshold });
    if (mine === latest) fillRates(rates);
  }

  function setThreshold(value, rule = "") {
    threshold = value;
    const [low, high] = [found.edges[0], found.edges.at(-1)];
    $("threshold").value = high > low ? (1000 * (value - low)) / (high - low) : 500;
    $("rule").value = rule;
    draw();
    clearTimeout(timer);
    timer = setTimeout(() => showRates().catch(() => {}), 80);
  }

  function describe() {
    const line = $("auroc");
    line.replaceChildren();
    const none = found.positives ? "without" : "with";
    if (!found.positives || found.positives === found.labels) return line.append(`No classifier yet: label films ${none} the finding.`);
    if (!found.auroc) return line.append(`AUROC: ${found.undefined}.`);
    const bold = document.createElement("b");
    bold.textContent = `AUROC ${three(found.auroc.value)}`;
    const random = found.of_random ? ` Of films drawn at random: ${three(found.of_random.value)}${within(found.of_random, two)}.` : "";
    line.append(bold, `${within(found.auroc, three)} by cross-validation of ${found.labels} labels, ${found.positives} positive.${random}`);
  }

  function show(next) {
    found = next;
    describe();
    $("warnings").replaceChildren(...found.warnings.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
    const rules = Object.entries(found.thresholds).filter(([, at]) => at !== null), chosen = $("rule").value;
    $("rule").replaceChildren(new Option("by hand", ""), ...rules.map(([name]) => new Option(name, name)));
    $("threshold").disabled = $("rule").disabled = !found.auroc;
    if (!found.auroc) { draw(); return fillRates(null); }
    const rule = byHand ? "" : found.thresholds[chosen] != null ? chosen : rules[0]?.[0] ?? "";
    setThreshold(rule ? found.thresholds[rule] : threshold, rule);
  }

  $("threshold").addEventListener("input", () => {
    const [low, high] = [found.edges[0], found.edges.at(-1)];
    byHand = true;
    setThreshold(low + ($("threshold").value / 1000) * (high - low));
  });
  $("rule").addEventListener("change", () => {
    byHand = !$("rule").value;
    if (!byHand) setThreshold(found.thresholds[$("rule").value], $("rule").value);
  });
  $("held-out").querySelector("button").addEventListener("click", async () => {
    const said = $("held-out").querySelector("span"), name = finding;
    try {
      const { measured } = await ask("held_out", { finding: name });
      if (!measured) said.textContent = "None of them is labelled, or there is no classifier yet.";
      else if (!measured.auroc) said.textContent = measured.undefined;
      else {
        const { rates } = await ask("rates", { finding: name, threshold, on: "held_out" });
        const of = (value) => value ? two(value.value) + within(value, two) : "–";
        said.textContent = `AUROC ${three(measured.auroc.value)}${within(measured.auroc, three)} of ${measured.labels} films, ${measured.positives} positive; `
          + `at this threshold sensitivity ${of(rates.sensitivity)}, specificity ${of(rates.specificity)}.`;
      }
    } catch (error) { said.textContent = error.message; }
  });
  draw();

  return {
    // Asks for the validation of the labels as they are; the latest answer is shown.
    async refresh(name) {
      const mine = ++asked, other = name !== finding;
      if (other) { finding = name; byHand = false; show(EMPTY); $("held-out").querySelector("span").textContent = ""; }
      const next = name ? await ask("validation", { finding: name }) : EMPTY;
      if (mine === asked) show(next);
    },
  };
}
