"""Radiology report -> sections -> abnormal, normal or unknown.

The coding is strict: any finding makes a report abnormal, also a granuloma, a worn spine, the clips
of an old operation or a device. What may be there ("possible", "cannot be excluded") counts as
there. Read are the findings, the impression and addenda, and of these what is said of the chest
film; a preliminary reading counts only where nothing else is left.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from input_pipeline import report_phrases as phrases

MAX_CHARACTERS = 100_000  # ten times what a long report has
_READ = ("findings", "impression", "addendum")
# Their later paragraphs may belong to no heading.
_CONTEXT = ("preamble", "indication", "comparison", "technique", "examination")


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


_HEADINGS = {name: re.compile(pattern, re.I) for name, pattern in phrases.HEADINGS.items()}
_HEADING = re.compile(
    rf"(?:(?P<line>^ ?)|(?<=\s))(?P<known>(?i:{'|'.join(phrases.HEADINGS.values())}))"
    r"(?P<end> ?:| ?$)"
    r"|^ ?(?P<final>FINAL REPORT):? ?$"
    r"|^ ?(?P<other>[A-Z][A-Z0-9 ,/&()_.-]{2,60}):",
    re.M,
)
_FINDINGS_HEADING = re.compile(rf"\b(?:{phrases.FINDINGS_HEADING})\b", re.I)
_REMOVED = re.compile(r"\bX{3,}\b|_{2,}")
_NEW_ITEM = re.compile(r"\n\s*\n|\n\s*(?:\d+[.)]|[-*•])\s")
_REWRITES = [(re.compile(pattern), meaning) for pattern, meaning in phrases.REWRITES.items()]
_NOTHING = re.compile("|".join(phrases.NOTHING))
_CLAUSE_END = re.compile(phrases.CLAUSE_END)
_DENIED_AFTER = re.compile(phrases.DENIED_AFTER)
_DENIED_BEFORE = re.compile(phrases.DENIED_BEFORE)
_VERB = re.compile(r"\b(?:is|are|was|were|has|have)\b")
_OTHER_FILM = re.compile(phrases.OTHER_FILM)
_THIS_FILM = re.compile(phrases.THIS_FILM)
_NORMAL = re.compile(phrases.NORMAL)
_FINDINGS = _words(phrases.FINDINGS)
_DIVIDED = _words(phrases.DIVIDED)
_SECTION_END = "end of section"


def decode(data: bytes) -> str:
    """The text of a report's file.

    Args:
        data: UTF-8, with or without a byte order mark, else Latin-1.

    Raises:
        ValueError: the bytes are no plain text.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    controls = sum(character < " " and character not in "\t\n\v\f\r" for character in text)
    if "\0" in text or controls > len(text) / 100:  # a stray one is let pass
        raise ValueError(
            f"The report is binary: {controls} of its {len(text)} characters are controls. Expected"
            " is plain text in UTF-8 or Latin-1; look whether the file is an image or compressed."
        )
    return text


def sections(text: str) -> dict[str, str]:
    """The parts of a free-text report.

    Known headings are read in any case and within a line; a section that comes twice is joined;
    "FINDINGS AND IMPRESSION" is given as both. Where no findings are headed, they are the
    paragraphs that follow the first one of the indication, comparison and the like; and where no
    impression is headed either, the last of these paragraphs is the impression.

    Args:
        text: of the whole report.

    Returns:
        Name in lower case -> text, for sections with any text: "findings", "impression", "wet
        read", "addendum", "indication", "comparison", "technique", "examination",
        "recommendation", "notification", "preamble" (what precedes the first heading) and
        whatever else is headed in capitals.
    """
    text = re.sub(r"[ \t]+", " ", text.replace("\r\n", "\n").replace("\r", "\n"))
    parts: dict[str, list[str]] = {}
    name, start = "preamble", 0
    for heading in _HEADING.finditer(text):
        new = _section_name(heading, name)
        if new:
            parts.setdefault(name, []).append(text[start : heading.start()].strip())
            name, start = new, heading.end()
    parts.setdefault(name, []).append(text[start:].strip())
    for both in parts.pop("findings and impression", []):
        for one in ("findings", "impression"):
            parts.setdefault(one, []).append(both)
    found = {name: "\n\n".join(filter(None, texts)) for name, texts in parts.items() if any(texts)}
    if "findings" not in found:
        body = []
        for name in [name for name in found if name in _CONTEXT]:
            own, loose = _own_and_loose(name, found.pop(name))
            found |= {name: own} if own else {}
            body += loose
        if body and "impression" not in found:
            found["impression"] = body.pop()
        if body:
            found["findings"] = "\n\n".join(body)
    return found


def _section_name(heading: re.Match, current: str) -> str:
    """Of the section that a possible heading opens; "" if it is none."""
    if heading["final"]:
        return "preamble"
    if other := heading["other"]:
        if current in (*_READ, "findings and impression"):
            return ""  # "BONES:" within the findings
        return "findings" if _FINDINGS_HEADING.search(other) else other.strip().lower()
    known, colon = heading["known"], ":" in heading["end"]
    if heading["line"] is not None:
        heads = colon or known[0].isupper()
    else:
        before = heading.string[max(heading.start() - 2, 0) : heading.start()].strip()
        after_sentence = before[-1:] in tuple(".;:!?)_")
        heads = colon and (known.isupper() or (known[0].isupper() and after_sentence))
    if not heads:
        return ""
    return next(name for name, pattern in _HEADINGS.items() if pattern.fullmatch(known))


def _own_and_loose(name: str, text: str) -> tuple[str, list[str]]:
    """A section's first paragraph, and those after it that no heading covers.

    What stands before the first heading is loose too, but for titles in capitals.
    """
    paragraphs = re.split(r"\n\s*\n", text)
    own = [] if name == "preamble" else paragraphs[:1]
    rest = [one for one in paragraphs[len(own) :] if re.search(r"[^\W_]", one)]
    own += [one for one in rest if one.isupper()]
    return "\n\n".join(own), [one for one in rest if not one.isupper()]


def label_report(text: str) -> Verdict:
    """The verdict on a whole free-text report; see `label_sections`."""
    if len(text) > MAX_CHARACTERS:
        return Verdict("unknown", "too_long")
    return label_sections(sections(text))


def label_sections(sections: Mapping[str, str]) -> Verdict:
    """Whether a report calls the chest abnormal, by the strict coding of the module's head.

    A device alone is abnormal, by a rule whose name begins with "device_", so that who does not
    count devices can tell; a report with another finding has that finding's rule. A report without
    a finding is normal if anything in it is called so or if what is usual to deny is denied.

    Args:
        sections: name in lower case -> text, as `sections` gives them.
    """
    texts = [sections.get(name, "") for name in _READ]
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
    *_, denied = (None, *_DENIED_BEFORE.finditer(clause))
    if denied:
        # "The heart is large, effusions are not seen": the heart is large all the same.
        comma = max(clause.rfind(",", 0, denied.start()), 0)
        before = clause[:comma] if _VERB.search(clause, 0, comma) else ""
        clause = f"{before} , {clause[denied.end() :]}"
    return _DENIED_AFTER.split(clause, maxsplit=1)[0]
