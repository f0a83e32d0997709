"""The file of a radiology report -> its sections."""

import re
import unicodedata

# name of a section -> its headings, in upper or lower case
HEADINGS: dict[str, str] = {
    "findings and impression": r"findings?(?: and |, |/| / | & | )impressions?"
    r"|impressions?(?: and |/| / )findings?",
    "findings": r"findings?|observations?|report|(?:chest|radiographic) findings",
    "impression": r"impressions?|conclusions?|opinion|interpretation|summary",
    # A preliminary reading, which the final one supersedes.
    "wet read": r"wet read(?: version #\d+)?|preliminary (?:read(?:ing)?|report|findings)"
    r"|provisional findings(?: impression)?(?: \(pfi\))?",
    "addendum": r"addend(?:um|a)(?: #?\d+)?",
    "indication": r"(?:clinical |patient )?(?:indications?|history|information)|indication/history"
    r"|reason for (?:exam(?:ination)?|study)(?:/indication)?|(?:underlying )?medical condition",
    "comparison": r"comparisons?(?: (?:stud(?:y|ies)|exams?|films?|radiographs?))?|priors?"
    r"|reference exam\w*",
    "technique": r"techniques?|procedure(?: comments)?",
    "examination": r"(?:type of )?(?:exam(?:ination)?s?|study)(?: type)?",
    "recommendation": r"recommendations?|recommendation\(s\)",
    "notification": r"notifications?|notification\(s\)|communications?",
}

# Other headings with one of these words head findings: "CHEST, TWO VIEWS:", "BONES:".
_FINDINGS_HEADING = (
    r"chest|views?|radiographs?|film|portable|lungs?|heart|cardi\w+|mediastin\w+|pleura\w*|hila"
    r"|bones?|osseous|skelet\w+|lines|tubes|devices|hardware|diaphragm\w*|abdomen|soft tissues?"
)

READ = ("findings", "impression", "addendum")  # what a report says of its film
# Their later paragraphs may belong to no heading.
_CONTEXT = ("preamble", "indication", "comparison", "technique", "examination")
UNREAD = (*_CONTEXT, "wet read", "notification")  # on other films, the question and people
_HEADINGS = {name: re.compile(pattern, re.I) for name, pattern in HEADINGS.items()}
_HEADING = re.compile(
    rf"(?:(?P<line>^ ?)|(?<=\s))(?P<known>(?i:{'|'.join(HEADINGS.values())}))"
    r"(?P<end> ?:| ?$)"
    r"|^ ?(?P<final>FINAL REPORT):? ?$"
    r"|^ ?(?P<other>[A-Z][A-Z0-9 ,/&()_.-]{2,60}):",
    re.M,
)
_SPELLINGS = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201b\u02bc\u00b4\u2032`", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-")
    | dict.fromkeys("\u2014\u2015", " - ")
    | dict.fromkeys("\u2022\u25aa\u25cf\u25e6\u00b7\u2023\u25a0\u2219", "*")
    | dict.fromkeys("\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", "\n")
    | dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff", None)
)
_HEADS_FINDINGS = re.compile(rf"\b(?:{_FINDINGS_HEADING})\b", re.I)


def plain(text: str) -> str:
    """A text in the spelling of the tables: plain quotes, dashes, item marks and blanks."""
    text = unicodedata.normalize("NFKC", text).translate(_SPELLINGS)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decode(data: bytes) -> str | None:
    """The text of a report's file: UTF-8, or else Latin-1; None if it is not plain text."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    controls = sum(character < " " and character not in "\t\n\v\f\r" for character in text)
    return None if "\0" in text or controls > len(text) / 100 else text  # a stray one may stand


def sections(text: str) -> dict[str, str]:
    """The parts of a free-text report: name in lower case -> text, where there is any.

    The names are those of `HEADINGS`, "preamble" (what precedes the first heading) and whatever
    else is headed in capitals. Known headings are read in any case and within a line; a section
    that comes twice is joined; "FINDINGS AND IMPRESSION" is given as both. Without a heading of
    findings, they are the paragraphs that follow the first one of the indication, comparison and
    the like; without a heading of the impression either, the last of these is the impression.
    """
    text = re.sub(r"[ \t]+", " ", plain(text))
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
            paragraphs = re.split(r"\n\s*\n", found.pop(name))
            own = [] if name == "preamble" else paragraphs[:1]
            rest = [one for one in paragraphs[len(own) :] if re.search(r"[^\W_]", one)]
            own += [one for one in rest if one.isupper()]  # titles
            body += [one for one in rest if not one.isupper()]
            if own:
                found[name] = "\n\n".join(own)
        if body and "impression" not in found:
            found["impression"] = body.pop()
        if body:
            found["findings"] = "\n\n".join(body)
    return found


def _section_name(heading: re.Match, current: str) -> str:
    """Name of the section that a possible heading opens; "" if it opens none."""
    if heading["final"]:
        return "preamble"
    if other := heading["other"]:
        if current in (*READ, "findings and impression"):
            return ""  # "BONES:" within the findings
        return "findings" if _HEADS_FINDINGS.search(other) else other.strip().lower()
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
