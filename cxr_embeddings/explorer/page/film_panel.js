// The panel of the film: its pixels, a heat map over it, and the films nearest to it.
import { createViewer } from "./film.js";
import { ask, numbers, thumbnail } from "./server.js";

const $ = (id) => document.getElementById(id);
const shortened = (name) => name.split("/").at(-1).slice(0, 10);

export function createFilmPanel({ onPick, onNear }) {
  let row = -1, finding = "", hasFilms = false, stop = new AbortController();
  const viewer = createViewer($("viewer"), (text) => { $("film-facts").textContent = text; });

  const empty = (text) => { $("film-empty").hidden = !text; $("film-empty").textContent = text; };

  async function pixels() {
    stop.abort();
    stop = new AbortController();
    const mine = row;
    if (!hasFilms) { viewer.show(null); return empty("The page was started without films (--films), so that there is no picture."); }
    const slow = setTimeout(() => empty("reading the film …"), 400);
    try {
      const found = await numbers("grey", "pixels", { row, shown: $("shown").value }, stop.signal);
      clearTimeout(slow);
      if (mine !== row) return;
      empty("");
      viewer.show(found);
    } catch (error) {
      clearTimeout(slow);
      if (mine !== row || stop.signal.aborted) return;
      viewer.show(null);
      empty(error.message);
    }
  }

  async function heat() {
    const of = $("heat").value, mine = row;
    viewer.showMap(null);
    if (!of || row < 0 || !hasFilms) return;
    $("film-facts").textContent = "computing the heat map …";
    try {
      const found = await numbers("float", "heat_map", { row, of, finding });
      if (mine !== row || of !== $("heat").value) return;
      viewer.showMap(found);
      const share = 1 / (1 + Math.exp(-found.facts.logit));
      $("film-facts").textContent = `heat map of ${of === "score" ? `the classifier of ${finding}` : of}: score ${share.toFixed(2)}; the cross is its maximum`;
    } catch (error) { if (mine === row) $("film-facts").textContent = error.message; }
  }

  async function nearest() {
    const mine = row, { films } = await ask("nearest", { row });
    if (mine !== row) return;
    onNear(films.map((one) => one.row));
    $("near").replaceChildren(...films.map((one) => {
      const button = document.createElement("button"), picture = document.createElement(hasFilms ? "img" : "span");
      if (hasFilms) Object.assign(picture, { src: thumbnail(one.row), alt: "", loading: "lazy" });
      Object.assign(button, { type: "button", title: `${one.image_id}\ncosine ${one.cosine.toFixed(3)}` });
      button.append(picture, `${shortened(one.image_id)} ${one.cosine.toFixed(2)}`);
      button.addEventListener("click", () => onPick(one.row));
      return button;
    }));
  }

  $("shown").addEventListener("change", async () => { if (row >= 0) { await pixels(); await heat(); } });
  $("heat").addEventListener("change", heat);
  $("opacity").addEventListener("input", () => viewer.setOpacity(Number($("opacity").value)));
  $("invert").addEventListener("click", () => $("invert").setAttribute("aria-pressed", viewer.invert()));
  $("reset").addEventListener("click", () => { viewer.reset(); $("invert").setAttribute("aria-pressed", false); });

  return {
    update(state) {
      hasFilms = state.has_films;
      const names = state.has_encoder ? ["score", ...state.heads] : [], chosen = $("heat").value;
      if (names.length === $("heat").options.length - 1) return;
      $("heat").replaceChildren(new Option(names.length ? "off" : "needs --films and --weights", ""),
        ...names.map((one) => new Option(one === "score" ? "classifier" : one, one)));
      $("heat").value = chosen;
    },
    // Resolves when the pixels are there, or an error is shown in their place.
    async show(next, name) {
      row = next;
      finding = name;
      nearest().catch(() => {});
      await pixels();
      heat();
    },
    refresh(name) { finding = name; return heat(); },
    toggleHeat() {
      const select = $("heat");
      if (select.options.length > 1) { select.value = select.value ? "" : select.options[1].value; heat(); }
    },
  };
}
