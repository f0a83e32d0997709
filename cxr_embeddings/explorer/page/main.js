// The page: which film and finding is at hand, what the keys do, and what other tabs have done.
import { createClassifier } from "./classifier.js";
import { createFilmPanel } from "./film_panel.js";
import { createHome } from "./home.js";
import { createMapPanel } from "./map_panel.js";
import { ask, say } from "./server.js";

const $ = (id) => document.getElementById(id);
const ANSWERS = ["positive", "negative", "unknown"];
const TAB = crypto.getRandomValues(new Uint32Array(4)).join("-");
const EVERY = 2000; // ms between looks at the server

let state = null, finding = "", changes = 0, busy = false;
let visited = [], here = -1; // films in the order in which they were shown: {row, chosen}
let film = null; // what is known of the film that is shown

const current = () => visited[here];

function tell(text, retry = false) { // the banner; "" hides it
  $("banner").hidden = !text;
  $("banner").firstElementChild.textContent = text;
  $("banner").querySelector("button").hidden = !retry;
}

const fail = (error) => tell(error.message);

async function show(row, chosen, step = true) {
  if (step) { visited = [...visited.slice(0, here + 1), { row, chosen }]; here = visited.length - 1; }
  map.setCurrent(row);
  if (!state.problem && !lost) tell(""); // a hint has been followed
  film = null;
  describe();
  const [about] = await Promise.all([ask("film", { row }), panel.show(row, finding)]);
  if (current()?.row !== row) return;
  film = about;
  describe();
}

function describe() { // the film's id, and what it is called
  const said = film?.said[finding] ?? "";
  for (const one of ANSWERS) {
    $(one).classList.toggle("said", said === one);
    $(one).disabled = !film || !finding;
  }
  $("back").disabled = here < 1;
  $("next").disabled = !finding;
  const given = film?.given[finding];
  const parts = film ? [film.image_id.length > 62 ? `…${film.image_id.slice(-60)}` : film.image_id, film.patient_id && `patient ${film.patient_id}`, film.held_out && "set aside",
    given !== undefined && `your table: ${given ? "positive" : "negative"}`, said && `called ${said}`] : [];
  $("film-id").title = film?.image_id ?? "";
  $("film-id").textContent = parts.filter(Boolean).join(" · ");
  const counts = state.findings[finding];
  $("counts").textContent = counts ? `${counts.positive} positive, ${counts.negative} negative, ${counts.unknown} unknown of ${state.films.toLocaleString()} films`
    + (state.has_held_out ? `; ${counts.held_out} of the ${state.held_out} set aside are labelled` : "") : "Add a finding to begin.";
}

async function act(work) { // one thing at a time: a key never meets a film that is not shown yet
  if (busy) return;
  busy = true;
  try { await work(); } catch (error) { fail(error); }
  busy = false;
}

function learned() { // after a change of the labels
  map.refresh(finding)?.catch(fail);
  classifier.refresh(finding).catch(fail);
  panel.refresh(finding);
}

function took(answer) { // what the server says after a change
  if (answer.changes === changes + 1) changes = answer.changes;
  if (answer.counts) state.findings[answer.undone?.finding ?? finding] = answer.counts;
  tell(answer.problem ?? "", Boolean(answer.problem));
  saved(answer.problem);
}

function saved(problem) {
  $("saved").textContent = problem ? "not saved" : `saved in ${state.file.split("/").slice(-2).join("/")}`;
  $("saved").title = state.file;
  $("saved").classList.toggle("bad", Boolean(problem));
}

async function label(said) {
  if (!film || !finding) return;
  const { row, chosen } = current();
  const now = film.said[finding] === said ? "" : said;
  took(await say("label", { row, finding, said: now, chosen, reader: $("reader").value.trim(), based_on: changes, tab: TAB }));
  film.said[finding] = now;
  describe();
  if (now) await next();
  learned();
}

async function next(skipped = null) {
  const how = $("how").value;
  let row = null;
  if (how === "selected") {
    const passed = new Set(visited.map((one) => one.row));
    row = [...map.selected].find((one) => !passed.has(one)) ?? null;
  } else row = (await say("next", { finding, how, skipped })).row;
  if (row === null) return tell(how === "selected" ? "All films of the selection have been shown." : "No film is left to label in this way. Click a point of the map to see a film, or choose another way.");
  await show(row, { selected: "looked_up", "held out": "random" }[how] ?? how);
}

async function forward() {
  if (here < visited.length - 1) { here += 1; return show(current().row, current().chosen, false); }
  await next(film && !film.said[finding] ? current().row : null);
}

async function back() {
  if (here < 1) return;
  here -= 1;
  await show(current().row, current().chosen, false);
}

async function undo() {
  const answer = await say("undo", { tab: TAB });
  took(answer);
  if (!answer.undone) return tell("This tab has nothing to take back.");
  if (answer.undone.finding !== finding) { $("finding").value = answer.undone.finding; await choose(); }
  const known = visited.findLast((one) => one.row === answer.undone.row);
  await show(answer.undone.row, known?.chosen ?? "looked_up");
  learned();
}

async function choose() { // another finding
  finding = $("finding").value;
  describe();
  learned();
}

function step(by) {
  const select = $("finding");
  select.selectedIndex = (select.selectedIndex + by + select.options.length) % select.options.length;
  return choose();
}

function fillFindings() {
  const names = Object.keys(state.findings), there = [...$("finding").options].map((one) => one.value);
  if (names.join("\n") !== there.join("\n")) {
    $("finding").replaceChildren(...names.map((name) => new Option(name, name)));
    $("finding").value = finding || names[0] || "";
  }
  home.showFindings(state.findings);
}

async function look() { // at what other tabs, readers and jobs have done
  const next = await ask("state", { since: changes });
  const foreign = next.latest.filter((one) => one.number > changes);
  state = next;
  changes = next.changes;
  fillFindings();
  panel.update(state);
  saved(state.problem);
  if (state.problem) tell(state.problem, true);
  if (foreign.some((one) => one.finding === finding)) learned();
  if (film && foreign.some((one) => one.image_id === film.image_id)) film = await ask("film", { row: film.row });
  describe();
  await map.update(state);
}

async function watch() {
  try {
    if (!busy) {
      await look();
      if (lost) { lost = false; tell(state.problem ?? "", Boolean(state.problem)); }
    }
  } catch (error) { lost = !error.status || error.status === 404; fail(error); }
  setTimeout(watch, EVERY);
}
let lost = false; // whether the server did not answer the last time

const pick = (row) => act(() => show(row, "looked_up"));
const classifier = createClassifier();
const panel = createFilmPanel({ onPick: pick, onNear: (rows) => map.setCurrent(current().row, rows) });
const home = createHome(() => look().catch(fail));
const map = createMapPanel({
  fail,
  onPick: pick,
  onSelect(rows) {
    const option = $("how").querySelector("[value=selected]");
    option.disabled = !rows.length;
    option.textContent = `of the lasso's selection (${rows.length})`;
    if (rows.length) $("how").value = "selected";
    else if ($("how").value === "selected") $("how").value = "uncertain";
  },
});

const KEYS = {
  p: () => label("positive"), n: () => label("negative"), u: () => label("unknown"), z: undo,
  ArrowRight: forward, ArrowLeft: back, "[": () => step(-1), "]": () => step(1),
};
const AT_ONCE = {
  h: () => panel.toggleHeat(), i: () => $("invert").click(), r: () => $("reset").click(),
  "?": () => $("help").showModal(), "/": () => $("search").focus(),
};
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=range]):not([type=checkbox]), select, dialog *");
  if (event.key === "Escape" && typing) return event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.matches("input[type=range]") && event.key.startsWith("Arrow")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (!KEYS[key] && !AT_ONCE[key]) return;
  event.preventDefault();
  if (AT_ONCE[key]) AT_ONCE[key](); else act(KEYS[key]);
});
for (const one of ANSWERS) $(one).addEventListener("click", () => act(() => label(one)));
for (const [id, work] of Object.entries({ back, next: forward, undo })) $(id).addEventListener("click", () => act(work));
$("finding").addEventListener("change", () => act(choose));
document.addEventListener("change", (event) => event.target.matches("select") && event.target.blur()); // keys work again
$("help-open").addEventListener("click", () => $("help").showModal());
$("banner").querySelector("button").addEventListener("click", () => act(async () => took(await say("retry", { tab: TAB }))));
$("add").addEventListener("click", () => { $("add-said").textContent = ""; $("add-name").value = ""; $("add-finding").showModal(); });
$("add-finding").addEventListener("submit", async (event) => {
  if (event.submitter?.value !== "add") return;
  event.preventDefault();
  const name = $("add-name").value.trim();
  try {
    await say("finding", { name });
    $("add-finding").close();
    await look();
    $("finding").value = name;
    await choose();
  } catch (error) { $("add-said").textContent = error.message; }
});

async function start() {
  state = await ask("state");
  changes = state.changes;
  $("about").textContent = `${state.films.toLocaleString()} films, ${state.numbers.toLocaleString()} numbers each`
    + (state.has_films && state.films_found < state.films ? `; ${state.films - state.films_found} have no file` : "");
  $("reader").value = state.reader;
  $("held-out").hidden = !state.has_held_out;
  if (state.has_held_out) $("how").append(new Option("of those set aside, at random", "held out"));
  fillFindings();
  finding = $("finding").value;
  panel.update(state);
  saved(state.problem);
  if (state.problem) tell(state.problem, true);
  describe();
  await map.start(state, finding);
  classifier.refresh(finding).catch(fail);
  if (!finding) $("add").focus();
}
start().catch(fail).finally(() => setTimeout(watch, EVERY));
