// The panel of the map: what it is coloured by, its legend, its projections, and search.
import { bytes, CATEGORIES, NEGATIVE, NONE, packed, POSITIVE, ramp, UNKNOWN } from "./colours.js";
import { createMap } from "./points.js";
import { ask, numbers, say } from "./server.js";

const $ = (id) => document.getElementById(id);
const LABELS = [["negative", NEGATIVE], ["positive", POSITIVE], ["unknown", UNKNOWN]];
const OUTLYING = "distance to the nearest film";
const isScore = (name) => name === "score" || name.startsWith("head");
const bright = (share) => ramp(0.25 + 0.75 * share); // the darkest part is lost on black
const logistic = (v) => 1 / (1 + Math.exp(-v));

export function createMapPanel({ onPick, onSelect, fail }) {
  let state = null, finding = "", values = new Float32Array(0), drawn = "", asked = 0, waiting = "";

  const map = createMap($("points"), $("marks"), {
    onPick,
    onSelect,
    async onHover(row) {
      if (row < 0) return ($("hovered").textContent = "");
      const { image_id } = await ask("film", { row });
      $("hovered").textContent = `${image_id}${describe(row)}`;
    },
  });

  const kind = (name) => state.colourings.find((one) => one.title === name)?.categories ?? [];

  function describe(row) {
    const name = $("colour").value, value = values[row];
    if (name === "label") return Number.isNaN(value) ? "" : ` – ${LABELS[value][0]}`;
    if (Number.isNaN(value) || value === undefined) return "";
    if (isScore(name)) return ` – score ${logistic(value).toFixed(2)}`;
    const names = kind(name);
    return ` – ${name} ${names.length ? names[value] : value.toPrecision(3)}`;
  }

  function paint() {
    const name = $("colour").value, names = name === "label" ? LABELS.map(([one]) => one) : kind(name);
    const none = packed(bytes(NONE)), count = state.films, colours = new Uint32Array(count).fill(none);
    const known = values.filter((v) => !Number.isNaN(v)).sort();
    let low = 0, high = 1, share = (v) => (v - low) / (high - low || 1);
    if (isScore(name)) share = logistic;
    else if (!names.length && known.length) { low = known[Math.floor(0.02 * (known.length - 1))]; high = known[Math.ceil(0.98 * (known.length - 1))]; }
    const palette = (name === "label" ? LABELS.map(([, one]) => one) : CATEGORIES).map((one) => packed(bytes(one)));
    const steps = Array.from({ length: 256 }, (_, i) => packed(bright(i / 255)));
    for (let i = 0; i < count; i++) {
      const v = values[i];
      if (!Number.isNaN(v)) colours[i] = names.length ? palette[v] : steps[Math.round(255 * Math.min(1, Math.max(0, share(v))))];
    }
    const order = new Uint32Array(count); // films of which nothing is known lie behind the others
    let back = 0, front = count - known.length;
    for (let i = 0; i < count; i++) order[Number.isNaN(values[i]) ? back++ : front++] = i;
    map.setColours(colours, order);
    legend(name, names, known.length, isScore(name) ? ["0", "1"] : [low.toPrecision(3), high.toPrecision(3)]);
  }

  function legend(name, names, known, [low, high]) {
    const parts = [], text = (said) => Object.assign(document.createElement("span"), { textContent: said });
    const dot = (colour, said) => {
      const one = text(said), mark = document.createElement("i");
      mark.style.background = colour;
      one.prepend(mark);
      parts.push(one);
    };
    if (names.length) names.forEach((one, i) => dot(name === "label" ? LABELS[i][1] : CATEGORIES[i], `${one} ${values.reduce((n, v) => n + (v === i), 0)}`));
    else if (known) {
      const bar = document.createElement("span"), one = text(low);
      bar.className = "ramp";
      bar.style.background = `linear-gradient(to right, ${Array.from({ length: 10 }, (_, i) => `rgb(${bright(i / 9)})`)})`;
      one.append(bar, high);
      parts.push(one);
    }
    if (state.films > known) dot(NONE, name === "score" && !known ? "no classifier yet" : `${name === "label" ? "no label" : "not known"} ${state.films - known}`);
    $("legend").replaceChildren(...parts);
  }

  async function colour() {
    const mine = ++asked, name = $("colour").value;
    if (name === OUTLYING && !state.colourings.some((one) => one.title === name)) {
      waiting = name;
      $("map-note").textContent = "Computing how far each film is from its nearest …";
      await say("start", { name });
      return;
    }
    const found = await numbers("float", "values", { name, finding });
    if (mine !== asked) return;
    values = found.values;
    paint();
  }

  async function project() {
    const name = $("projection").value;
    if (name === "umap" && state.jobs.umap !== "ready") {
      waiting = "umap";
      $("map-note").textContent = "UMAP is being computed: PCA is shown until it is there.";
      await say("start", { name });
      return;
    }
    const { values: coordinates, facts } = await numbers("float", "map", { name });
    drawn = name;
    map.setPoints(coordinates);
    const percent = (share) => `${(100 * share).toFixed(0)} %`;
    $("map-note").textContent = name === "umap" ? "UMAP of the first 50 principal axes. Distances between groups mean little."
      : `PCA: the axes hold ${percent(facts.explained[0])} and ${percent(facts.explained[1])} of the variance`
        + (facts.fitted_on < state.films ? `; fitted on ${facts.fitted_on.toLocaleString()} films drawn at random.` : ".");
  }

  function fillColours() {
    const names = ["label", "score", ...state.colourings.map((one) => one.title)], chosen = $("colour").value || "label";
    if (!names.includes(OUTLYING)) names.push(OUTLYING);
    const there = [...$("colour").options].map((one) => one.value);
    if (there.join("\n") === names.join("\n")) return;
    $("colour").replaceChildren(...names.map((one) => new Option(one, one)));
    $("colour").value = names.includes(chosen) ? chosen : "label";
  }

  let typing = 0;
  $("search").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(async () => {
      const { films } = await ask("search", { text: $("search").value });
      $("found").replaceChildren(...films.map((one) => new Option(one.image_id)));
      const exact = films.find((one) => one.image_id === $("search").value);
      if (exact) onPick(exact.row);
    }, 150);
  });
  $("search").addEventListener("keydown", async (event) => {
    if (event.key !== "Enter") return;
    const { films } = await ask("search", { text: $("search").value });
    if (films.length) onPick(films[0].row);
    else $("hovered").textContent = "No id holds this text.";
  });
  $("colour").addEventListener("change", () => colour().catch(fail));
  $("projection").addEventListener("change", () => project().catch(fail));
  $("fit").addEventListener("click", () => map.fit());
  $("lasso").addEventListener("click", () => {
    const on = $("lasso").getAttribute("aria-pressed") !== "true";
    $("lasso").setAttribute("aria-pressed", on);
    map.setLasso(on);
  });

  return {
    async start(first, name) {
      state = first;
      finding = name;
      fillColours();
      await project();
      await colour();
    },
    // After a label: only these colourings change.
    refresh(name) {
      finding = name;
      if (["label", "score"].includes($("colour").value)) return colour();
    },
    // After a look at the server: new colourings, and jobs that have ended.
    async update(next) {
      state = next;
      fillColours();
      const doing = waiting && state.jobs[waiting];
      if (!doing || doing === "working") return;
      const ended = waiting;
      waiting = "";
      if (doing !== "ready") $("map-note").textContent = `${ended}: ${doing}`;
      else if (ended === "umap") { if ($("projection").value === "umap") await project(); }
      else { await project(); await colour(); }
      if (doing !== "ready" && ended === "umap") $("projection").value = drawn;
    },
    setCurrent: (row, near) => map.setCurrent(row, near),
    get selected() { return map.selected; },
  };
}
