"""What a terminal shows of a head: films and labels, what was chosen, how good it is."""

from collections.abc import Mapping, Sequence

from ..saved import WholeCard
from ..statistics.results import Comparison, Interval, Measurements, Note, Results, SplitCounts
from .panels import number, patients

FEW = 10  # films of one class on tune, below which what is chosen on it hangs on single films


def of_counts(
    counts: Mapping[str, SplitCounts], notes: Sequence[Note], definitions: Sequence[str]
) -> list[str]:
    """What labels mean, what was left out, and how many films each split has; warnings begin with
    `warning: `."""
    lines = [f"labels: {sentence}" for sentence in definitions]
    for note in notes:
        some = ": " + ", ".join(note["examples"][:2]) if note["examples"] else ""
        lines.append(f"  {note['count']:8} {note['what']}{some}")
    for split, one in counts.items():
        positives = ", ".join(f"{name} {n}" for name, n in one["positives"].items())
        text = f"{split:5} {one['films']:8} films; patients: {patients(one)}; with {positives}"
        lines.append(text)
    if unknown := sum(one["films_of_unknown_patients"] for one in counts.values()):
        lines.append(
            f"warning: the patients of {unknown} films are unknown: each is counted by itself, and "
            "intervals are too narrow where patients have several films"
        )
    tune = counts.get("tune")
    few = [
        f"{name} ({least} {what})"
        for what in ("positives", "negatives")
        for name, least in (tune[what].items() if tune and tune["films"] else ())
        if least < FEW
    ]
    if few:
        lines.append(
            f"warning: tune has fewer than {FEW} films of one class for {', '.join(few)}: "
            "thresholds and temperatures come from these few films, and are uncertain"
        )
    return lines


def of_choice(card: WholeCard) -> list[str]:
    """What was chosen."""
    said = ", ".join(f"{name} {v:.4g}" for name, v in card["chosen"].items() if v is not None)
    lines = [f"chosen of {len(card['candidates'])}: {said}"]
    if card["note"]:
        lines.append(f"warning: {card['note']}")
    return lines


def of_results(measured: Measurements) -> list[str]:
    """How good a head is; warnings begin with `warning: `."""
    lines = []
    split, results = measured["split"], measured["results"]
    for finding, result in results["findings"].items():
        if why := result.get("temperature_kept"):
            text = f"{finding}: probabilities are not scaled (temperature 1): {why}"
            lines.append(f"warning: {text}")
    if split == "tune":
        lines.append("warning: there is no test split: these figures are of tune, and too good")
    lines.append(f"AUROC on {split} (95 % interval)")
    findings = results["findings"].items()
    aurocs: list[tuple[str, str | None, Interval | None]] = [
        (name, one["undefined"], one.get("auroc")) for name, one in findings
    ]
    if len(aurocs) > 1:
        aurocs.append(("mean", None, results["mean"]["auroc"]))
    for name, undefined, auroc in aurocs:
        if undefined:
            lines.append(f"  {name:28} -      {undefined}")
        elif auroc:
            low, high = auroc["low"], auroc["high"]
            limits = "too few films" if low is None else f"{low:.3f} to {high:.3f}"
            lines.append(f"  {name:28} {auroc['value']:.3f}  ({limits})")
    lines += of_recalibration(results)
    flagged = measured["out_of_distribution"].items()
    said = ", ".join(f"{one['flagged']} of {one['films']} {name} films" for name, one in flagged)
    lines.append(f"out of distribution, unlike the training films: {said}")
    for name, change in measured.get("changes", {}).items():
        if (kappa := change["kappa"]) is None:
            continue
        limits = "" if kappa["low"] is None else f"  ({kappa['low']:.3f} to {kappa['high']:.3f})"
        lines.append(f"  {name + ', weighted kappa':28} {kappa['value']:.3f}{limits}")
    for part in measured.get("parts", {}).values():
        lines += of_comparison(split, part["less"])
    if measured["comparison"]:
        lines += of_comparison(split, measured["comparison"])
    return lines


def of_recalibration(results: Results) -> list[str]:
    """What refitting on local labels does to the calibration on the films that are measured."""
    lines: list[str] = []

    def shown(one: Interval | None) -> str:
        return number(one and one["value"])

    for finding, found in results["findings"].items():
        if "recalibration" not in found:
            continue
        local = found["recalibration"]
        lines = lines or ["calibration before and after recalibration on local films"]
        if local["undefined"]:
            lines.append(f"  {finding:28} -      {local['undefined']}")
            continue
        came, after = found["calibration"]["after"], local["after"]
        said = ", ".join(
            f"{name} {shown(came[name])} to {shown(after[name])}"
            for name in ("intercept", "slope", "ece")
        )
        lines.append(f"  {finding:28} {said} ({local['positives']} of {local['n']} positive)")
    return lines


def of_comparison(split: str, comparison: Comparison) -> list[str]:
    """How this head differs from the other."""
    test, films = comparison["test"], comparison["n"]
    lines = [f"AUROC on {films} films of {split} less that of {comparison['other']} ({test})"]
    for finding, result in comparison["findings"].items():
        if result["undefined"]:
            lines.append(f"  {finding:28} -      {result['undefined']}")
            continue
        both = f"{result['auroc']:.3f} - {result['other_auroc']:.3f}"
        limits = f"{result['low']:+.3f} to {result['high']:+.3f}"
        p = f"p {result['p']:.3g}, by Holm {result['p_holm']:.3g}"
        lines.append(f"  {finding:28} {both} = {result['difference']:+.3f}  ({limits}; {p})")
    return lines
