// The panel "Take home": a head trained on the labels, and all that belongs to it.
import { report, say } from "./server.js";

const $ = (id) => document.getElementById(id);

export function createHome(onTaken) {
  const touched = new Set(); // findings whose boxes the reader has set

  function showFindings(findings) { // those with both kinds of labels are ticked
    for (const [name, counts] of Object.entries(findings)) {
      let box = [...$("home-findings").querySelectorAll("input")].find((one) => one.value === name);
      if (!box) {
        const label = document.createElement("label");
        box = Object.assign(document.createElement("input"), { type: "checkbox", value: name });
        box.addEventListener("change", () => touched.add(name));
        label.append(box, name);
        $("home-findings").append(label);
      }
      if (!touched.has(name)) box.checked = counts.positive > 0 && counts.negative > 0;
    }
  }

  async function take() {
    const name = $("home-name").value.trim(), said = $("home-said");
    const findings = [...$("home-findings").querySelectorAll("input:checked")].map((one) => one.value);
    if (!findings.length) return said.replaceChildren(Object.assign(document.createElement("p"), { className: "bad", textContent: "Tick at least one finding." }));
    $("home-go").disabled = true;
    said.textContent = "Training a head …";
    try {
      const taken = await say("take_home", { name, findings });
      const line = document.createElement("p"), link = document.createElement("a"), summary = document.createElement("pre");
      Object.assign(link, { href: report(name), target: "_blank", rel: "noopener", textContent: "Open its report" });
      line.append(`Written to ${taken.files.head.replace(/\/head$/, "")}. `, link, ". The map can now be coloured by its scores.");
      summary.textContent = taken.summary;
      said.replaceChildren(line, summary);
      $("home-name").value = name.replace(/(\d*)$/, (digits) => String(Number(digits || 1) + 1));
      said.scrollIntoView({ block: "nearest" });
      onTaken();
    } catch (error) {
      said.replaceChildren(Object.assign(document.createElement("p"), { className: "bad", textContent: error.message }));
    }
    $("home-go").disabled = false;
  }

  $("home-go").addEventListener("click", take);
  return { showFindings };
}
