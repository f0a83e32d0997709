"""The page of heads across hospitals: what is said of each table, and its cells as text."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ..statistics.results import FindingResult, Interval
from ..statistics.site_results import HeadAtSite, SitesMeasured
from . import page, panels

Cell = tuple[str, str]  # a value, and what stands below it in small letters
CAUTIONS = (
    "A finding counts as the same at two sites where its name is the same. The sites may label it "
    "by other rules, and take what is not mentioned in another way: read the definitions below.",
    "A difference between sites has many causes: films, scanners, patients, labels. The tables of "
    "case mix, prevalence and traces of the site show some of them, and prove none.",
)
FORMULA = (
    "Each film counts with the weight (share of its stratum in the common mix) / (share of its "
    "stratum at the site), in both classes; pairs of a positive and a negative film count with the "
    "product of their weights. The common mix is the mean of the sites' shares, over the strata "
    "that have at least 10 test films at every site. Intervals: percentile bootstrap by patient."
)


class Table(NamedTuple):
    """A table of the page: group -> lines of a name and cells."""

    caption: str
    head: Sequence[str]
    groups: Mapping[str, Sequence[Sequence[str | Cell]]]


class Section(NamedTuple):
    name: str
    title: str
    text: str
    tables: Sequence[Table]


def write(
    path: pathlib.Path,
    measured: SitesMeasured,
    provenance: Mapping[str, object],
    warnings: Sequence[str],
    svgs: Mapping[str, bytes],
) -> None:
    """Writes the page; the same arguments give the same bytes."""
    names, findings = [*measured["sites"]], measured["findings"]
    captions = {
        "auroc": "AUROC of each head (rows) on the test films of each site (columns). Framed: the "
        "site's own head.",
        "local": "AUROC of heads that are trained on so many local labels (mean and 95 % of the "
        "draws), and of the heads of other sites (dashed), on the site's test films.",
    }
    pictures = [
        page.image(svg, kind, i + 1, captions[kind], f"{captions[kind]} The table has the numbers.")
        for i, (name, svg) in enumerate(svgs.items())
        for kind in [name.partition("_")[0]]
    ]
    notes = [(note, "all sites") for note in measured["notes"]]
    notes += [(note, name) for name, one in measured["sites"].items() for note in one["notes"]]
    listed: list[list[str | Cell]] = [
        [one["what"], (f"{one['count']:,}", ""), (name, "")] for one, name in notes
    ]
    content = page.render(
        "sites.html",
        title=f"Heads across {len(names)} sites: {', '.join(names)}",
        lead=f"{', '.join(findings)}. Every head is tested on the test films of every site.",
        warnings=[*warnings, *CAUTIONS],
        sections=_sections(measured),
        pictures=pictures,
        sites=measured["sites"],
        notes=Table("What was found, taken or left out.", ["What", "Count", "Site"], {"": listed}),
        provenance=page.told(provenance),
    )
    path.write_text(content, encoding="utf-8")


def _sections(measured: SitesMeasured) -> list[Section]:
    sites, findings = measured["sites"], measured["findings"]
    of_sites = [
        Section(
            "auroc",
            "AUROC",
            "With 95 % intervals by patient. The difference is to the site's own head, on the same "
            "films, by DeLong's paired test by patient.",
            [
                _matrix(measured, "AUROC. Rows: trained on. Columns: tested on.", _auroc),
                _matrix(measured, "AUROC less that of the site's own head.", _difference),
            ],
        ),
        Section(
            "traces",
            "Traces of the site in the embeddings",
            "A linear probe is asked for the hospital, and at each site for scanner, view, sex and "
            "age, by five-fold cross-validation grouped by patient. 0.5 is chance. A head can take "
            "such a trace for the finding, where the two go together.",
            [Table("AUROC of the probe.", ["Question", "Films", "AUROC"], {"": _traces(measured)})],
        ),
        Section(
            "mix",
            "Prevalence and case mix",
            "Shares of all labelled films, with 95 % intervals by patient (Wilson).",
            [Table("Share of films.", ["", *sites], _mix(measured))],
        ),
        Section(
            "standard",
            "AUROC with a common case mix",
            f"Strata of {', '.join(measured['factors'])}. {FORMULA}"
            if measured["common_mix"]
            else "No stratum of view, sex and age has enough films at every site, or no site says "
            "them all: there is no common mix.",
            [_matrix(measured, "AUROC, standardised.", _standardised)]
            if measured["common_mix"]
            else [],
        ),
        Section(
            "calibration",
            "Calibration, before and after recalibration",
            "1 and 0 are the ideal slope and intercept. Before: with the head's own temperature. "
            "After: intercept and slope refitted on local labels of other patients than "
            "those measured.",
            [
                Table(
                    "Each head at each other site.",
                    ["Head", "Local positive / films", *_twice("Intercept"), *_twice("Slope")],
                    {name: _calibration(measured, name) for name in findings},
                )
            ],
        ),
        Section(
            "thresholds",
            "The heads' own thresholds",
            "The threshold is Youden's on the head's own tune films.",
            [
                Table(
                    "Sensitivity and specificity at each site, and where the threshold was chosen.",
                    ["Head", "Threshold", "Sensitivity", "Specificity", "On tune"],
                    {name: _thresholds(measured, name) for name in findings},
                )
            ],
        ),
    ]
    if any(one["local_labels"] for one in sites.values()):
        said = (
            "The fewest local training labels with which the mean AUROC of local heads reaches "
            "that of the foreign head. All local tune films chose the penalty: count their labels, "
            "too."
        )
        table = _matrix(measured, "Local labels.", _caught_up)
        of_sites.append(
            Section("local", "Local labels until a foreign head is caught up", said, [table])
        )
    return of_sites


def _twice(name: str) -> list[str]:
    return [f"{name} before", f"{name} after"]


def _interval(found: Interval | None, digits: int = 3) -> Cell:
    if found is None:
        return panels.UNDEFINED, ""
    return panels.number(found["value"], digits), panels.bounds(found, digits)


def _matrix(
    measured: SitesMeasured, caption: str, cell: Callable[[HeadAtSite, str | None], Cell | None]
) -> Table:
    """Heads in rows, sites in columns; a group for the mean and for each finding."""
    groups = {}
    names = [None, *measured["findings"]] if len(measured["findings"]) > 1 else measured["findings"]
    for finding in names:
        lines: list[list[str | Cell]] = []
        for head, at_sites in measured["heads"].items():
            cells = [cell(found, finding) for found in at_sites.values()]
            shown = [
                (one[0], f"{one[1]} own head".strip()) if one and head == site else one
                for one, site in zip(cells, at_sites, strict=True)
            ]
            if any(cells):
                lines.append([head, *(one or (panels.UNDEFINED, "") for one in shown)])
        groups[finding or "Mean of findings"] = lines
    return Table(caption, ["Trained on", *measured["sites"]], groups)


def _of(found: HeadAtSite, finding: str | None) -> FindingResult | None:
    result = found["results"]["findings"].get(finding or "")
    return None if result is None or result["undefined"] else result


def _auroc(found: HeadAtSite, finding: str | None) -> Cell | None:
    if finding is None:
        return _interval(found["results"]["mean"]["auroc"])
    result = _of(found, finding)
    return result and _interval(result["auroc"])


def _difference(found: HeadAtSite, finding: str | None) -> Cell | None:
    result = found["difference"].get(finding or "")
    if result is None or result["undefined"]:
        return None
    limits = f"[{panels.number(result['low'], 3)}, {panels.number(result['high'], 3)}]"
    return panels.number(result["difference"], 3), limits


def _standardised(found: HeadAtSite, finding: str | None) -> Cell | None:
    return _interval(found["standardised"].get(finding)) if finding else None


def _caught_up(found: HeadAtSite, finding: str | None) -> Cell | None:
    if finding not in found["caught_up"]:
        return None
    size = found["caught_up"][finding]
    return (f"{size:,}", "") if size else ("not with all", "")


def _elsewhere(measured: SitesMeasured) -> list[tuple[str, HeadAtSite]]:
    """Heads at the sites that they were not trained on, and what each line is called."""
    return [
        (f"{head} at {site}", found)
        for head, at_sites in measured["heads"].items()
        for site, found in at_sites.items()
        if site not in measured["trained_on"][head]
    ]


def _calibration(measured: SitesMeasured, finding: str) -> list[list[str | Cell]]:
    lines: list[list[str | Cell]] = []
    for name, found in _elsewhere(measured):
        result = _of(found, finding)
        if result is None:
            continue
        local, came = result.get("recalibration"), result["calibration"]["after"]
        after = local.get("after") if local else None
        counts = (
            (f"{local['positives']:,} / {local['n']:,}", local["undefined"] or "")
            if local
            else ("", "")
        )
        values = [
            _interval(part[metric] if part else None, 2)
            for metric in ("intercept", "slope")
            for part in (came, after)
        ]
        lines.append([name, counts, *values])
    return lines


def _thresholds(measured: SitesMeasured, finding: str) -> list[list[str | Cell]]:
    lines: list[list[str | Cell]] = []
    for name, found in _elsewhere(measured):
        result = _of(found, finding)
        point = result["operating_points"][0] if result else None
        if point is None or point["test"] is None:
            continue
        tune = point["tune"] or {}
        on_tune = ", ".join(panels.number(tune.get(one)) for one in ("sensitivity", "specificity"))
        rates = [_interval(point["test"][rate]) for rate in ("sensitivity", "specificity")]
        lines.append([name, (panels.number(point["threshold"], 3), ""), *rates, (on_tune, "")])
    return lines


def _traces(measured: SitesMeasured) -> list[list[str | Cell]]:
    return [
        [told["what"], (f"{told['positives']:,} / {told['n']:,}", ""),
         _interval(told["auroc"]) if told["auroc"] else (panels.UNDEFINED, "too few patients")]
        for told in measured["told"]
    ]  # fmt: skip


def _mix(measured: SitesMeasured) -> dict[str, list[list[str | Cell]]]:
    sites = measured["sites"]
    films = [(f"{sum(c['films'] for c in s['counts'].values()):,}", "") for s in sites.values()]
    groups: dict[str, list[list[str | Cell]]] = {
        "": [["Films", *films]],
        "Prevalence": [
            [name, *(_interval(one["prevalence"][name]) for one in sites.values())]
            for name in measured["findings"]
        ],
    }
    for factor in dict.fromkeys(factor for one in sites.values() for factor in one["mix"]):
        mixes = [one["mix"].get(factor, {}) for one in sites.values()]
        groups[factor.capitalize()] = [
            [value, *(_interval(mix.get(value)) for mix in mixes)]
            for value in sorted({value for mix in mixes for value in mix})
        ]
    if measured["common_mix"]:
        covered = [(f"{100 * one['covered']:.0f} %", "") for one in sites.values()]
        groups["Common mix"] = [["test films within its strata", *covered]]
    return groups


def lines(measured: SitesMeasured) -> list[str]:
    """What a terminal shows: films, AUROCs of each head at each site, and traces of the sites."""
    sites = measured["sites"]
    said = [f"  {note['count']:8} {note['what']}" for note in measured["notes"]]
    for name, facts in sites.items():
        counts = ", ".join(f"{split} {one['films']}" for split, one in facts["counts"].items())
        said.append(f"site {name}: {counts} films")
    for name in measured["findings"]:
        said.append(f"AUROC of {name}: trained on (rows), tested on {', '.join(sites)}")
        for head, at_sites in measured["heads"].items():
            cells = (_auroc(found, name) or (panels.UNDEFINED, "") for found in at_sites.values())
            said.append(f"  {head:24} " + "  ".join(f"{v} {limits:14}" for v, limits in cells))
    said.append("how well a linear probe tells (AUROC)")
    for told in measured["told"]:
        value, limits = _interval(told["auroc"])
        said.append(f"  {told['what']:32} {value} {limits}")
    return said
