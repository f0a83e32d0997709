"""Radiology report -> abnormal, normal or unknown.

The coding is strict: any finding makes a report abnormal, also a granuloma, a worn spine, the clips
of an old operation or a device. What may be there ("possible", "cannot be excluded") counts as
there. Read are the findings, the impression and addenda, and of these what is said of the chest
film; a preliminary reading counts only where nothing else is left.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from input_pipeline import report_phrases as phrases
from input_pipeline import report_sections
from input_pipeline.report_sections import READ

MAX_CHARACTERS = 100_000  # ten times what a long report has


class Verdict(NamedTuple):
    """What a report comes to.

    Attributes:
        label: "abnormal", "normal" or "unknown".
        rule: what decided: for abnormal a key of `report_phrases.FINDINGS`; for normal
            "normal_statement"; for unknown "empty", "not_english", "too_long", "no_statement" or a
            key of `report_phrases.DIVIDED`. Never words of the report.
    """

    label: str
    rule: str


def _words(table: Mapping[str, str]) -> dict[str, re.Pattern]:
    return {name: re.compile(rf"(?<!\w)(?:{pattern})(?!\w)") for name, pattern in table.items()}


_REMOVED = re.compile(r"\bX{3,}\b|_{2,}")
_NEW_ITEM = re.compile(r"\n\s*\n|\n\s*(?:\d+[.)]|[-*•])\s")
_REWRITES = [(re.compile(pattern), meaning) for pattern, meaning in phrases.REWRITES.items()]
_NOTHING = re.compile("|".join(phrases.NOTHING))
_CLAUSE_END = re.compile(phrases.CLAUSE_END)
_DENIED_AFTER = re.compile(phrases.DENIED_AFTER)
_DENIED_BEFORE = re.compile(phrases.DENIED_BEFORE)
_REACH_END = re.compile(phrases.REACH_END)
_STATED = re.compile(phrases.STATED)
_CLOSED = re.compile(phrases.CLOSED)
_SIDED = re.compile(phrases.SIDED)
_SEVERAL = re.compile(r"\b(?:are|were|have)\b")
_ONE = re.compile(r"\b(?:is|was|has|unlikely)\b")
_OR = re.compile(r"\b(?:or|nor)\b")
_TAKEN = [re.compile(phrases.REMOVED_BEFORE), re.compile(phrases.REMOVED_AFTER)]
_NAMED_REMOVED = re.compile(phrases.NAMED_REMOVED)
_OTHER_FILM = re.compile(phrases.OTHER_FILM)
_THIS_FILM = re.compile(phrases.THIS_FILM)
_NORMAL = re.compile(phrases.NORMAL)
_FINDINGS = _words(phrases.FINDINGS)
_DIVIDED = _words(phrases.DIVIDED)
_ANY = re.compile("|".join(pattern.pattern for pattern in _FINDINGS.values()))
_DEVICES = [pattern for rule, pattern in phrases.FINDINGS.items() if rule.startswith("device_")]
_DEVICE = re.compile(rf"(?<!\w)(?:{'|'.join([phrases.REMOVABLE, *_DEVICES])})(?!\w)")
_SECTION_END = "end of section"


def label_report(text: str) -> Verdict:
    """The verdict on a whole free-text report; see `label_sections`."""
    if len(text) > MAX_CHARACTERS:
        return Verdict("unknown", "too_long")
    return label_sections(report_sections.sections(text))


def label_sections(sections: Mapping[str, str]) -> Verdict:
    """Whether a report calls the chest abnormal, by the strict coding of the module's head.

    A device alone is abnormal, by a rule whose name begins with "device_", so that who does not
    count devices can tell; a report with another finding has that finding's rule. A report without
    a finding is normal if anything in it is called so or if what is usual to deny is denied.

    Args:
        sections: name in lower case -> text, as `sections` gives them.
    """
    texts = [sections.get(name, "") for name in READ]
    if not any(texts):
        texts = [sections.get("wet read", "")]
    text = _REMOVED.sub(" ", f"\n\n{_SECTION_END}\n\n".join(dict.fromkeys(texts)))
    words = re.findall(r"[^\W\d_]+", text.replace(_SECTION_END, "").lower())
    if not words:
        return Verdict("unknown", "empty")
    if len(text) > MAX_CHARACTERS:
        return Verdict("unknown", "too_long")
    if not _is_english(words):
        return Verdict("unknown", "not_english")
    text = " ".join(_NEW_ITEM.sub(" . ", text).lower().split())
    affirmed = " . ".join(_affirmed(clause) for clause in _chest_clauses(text))
    for rule, pattern in _FINDINGS.items():
        if pattern.search(affirmed):
            return Verdict("abnormal", rule)
    for rule, pattern in _DIVIDED.items():
        if pattern.search(affirmed):
            return Verdict("unknown", rule)
    if _NORMAL.search(text):
        return Verdict("normal", "normal_statement")
    return Verdict("unknown", "no_statement")


def _is_english(words: list[str]) -> bool:
    """Whether few words are of other letters, and, of five or more, enough are common English."""
    if sum(map(str.isascii, words)) < 0.8 * len(words):
        return False
    english = sum(
        word in phrases.ENGLISH or word.endswith(phrases.ENGLISH_ENDINGS) for word in words
    )
    return len(words) < 5 or english >= len(words) / 10


def _chest_clauses(text: str) -> list[str]:
    """The clauses of a report without those on films of other parts of the body.

    A heading such as "left knee:" counts only beside one such as "chest:".
    """
    for pattern, meaning in _REWRITES:
        text = pattern.sub(meaning, text)
    clauses = [clause.strip() for clause in _CLAUSE_END.split(text)]
    several = any(_THIS_FILM.fullmatch(clause) for clause in clauses)
    chest, elsewhere = [], False
    for clause in clauses:
        if clause == _SECTION_END or _THIS_FILM.fullmatch(clause):
            elsewhere = False
        elif several and _OTHER_FILM.fullmatch(clause):
            elsewhere = True
        elif not elsewhere:
            chest.append(clause)
    return chest


def _affirmed(clause: str) -> str:
    """What a clause does not deny."""
    clause = _NOTHING.sub(" ", clause)
    if "remov" in clause or "discontinued" in clause:
        for pattern in _TAKEN:
            clause = pattern.sub(_without_device, clause)
    start, kept = 0, []
    for denial in _DENIED_BEFORE.finditer(clause):
        kept.append(_before_reach(clause[start : denial.start()], denial))
        start = denial.end()
    clause = " , ".join([*kept, clause[start:]])
    affirmed, *denied = _DENIED_AFTER.split(clause, maxsplit=1)
    closed = denied and _CLOSED.search(denied[0])
    if closed and not _OR.search(closed["more"]) and _ANY.fullmatch(closed["finding"]):
        return f"{affirmed} , {closed['more']}"
    return affirmed


def _before_reach(text: str, denial: re.Match) -> str:
    """What precedes a denial and is out of its reach.

    "The heart is large, effusions are not seen": the heart is large all the same. "Edema and
    effusions have resolved" denies both, "edema and effusion has resolved" the last.
    """
    verb = " ".join([*text.split()[-2:], denial[0]])
    one = bool(_ONE.search(verb)) and not (denial["seen"] or _SEVERAL.search(verb))
    for end in reversed([*_REACH_END.finditer(text)][-8:]):  # so that time stays linear
        before, after = text[: end.start()], text[end.end() :]
        if _STATED.search(before) and re.search(r"\w", after):
            return before
        nearest = one and end[0] in (",", "and", "with") and not _OR.search(after)
        if (nearest or (denial["seen"] and _SIDED.search(before))) and _ANY.search(after):
            return before
    return ""


def _without_device(found: re.Match) -> str:
    """What is left of the words up to "removed", or from "removal of" on."""
    left = _DEVICE.sub(" ", found[0])
    # Where it was no device, it is what stands nearest: "the mass was removed".
    return left if left != found[0] else _NAMED_REMOVED.sub(" ", left)
