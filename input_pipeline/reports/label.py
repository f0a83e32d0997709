"""Radiology report -> abnormal, normal or unknown.

The coding is strict: any finding makes a report abnormal, also a granuloma, a worn spine, the clips
of an old operation or a device. What may be there ("possible", "cannot be excluded") counts as
there. Only what findings, impression and addenda say of the chest film is read; a preliminary
reading counts only where nothing else is left.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from . import clauses as report_clauses
from . import sections as report_sections
from .clauses import SECTION_END
from .sections import READ, UNREAD
from .vocabulary import FINDINGS

MAX_CHARACTERS = 100_000  # ten times what a long report has


class Verdict(NamedTuple):
    """What a report comes to: "abnormal", "normal" or "unknown", and the rule that decided.

    Rules are never words of the report. For abnormal it is a key of `FINDINGS`, for normal
    "normal_statement", and for unknown "empty", "not_english", "too_long", "no_statement",
    "unclear" (what a denial reaches), "other_section" (a finding stands where none are read) or a
    key of `DIVIDED`. Where there is no report to read, it is "binary", "unreadable" or "failed".
    """

    label: str
    rule: str


class Labels(NamedTuple):
    """Labels of studies or films: a sentence on what was read, names of the ids, ids -> verdict."""

    about: str
    columns: tuple[str, ...]
    rows: Mapping[tuple[str, ...], Verdict]


# English is recognised by these words, which no other language has.
_ENGLISH = frozenset(
    "the of is are and or there with without seen for was were has have been be this that may at"
    " as by from within limits size right left lung lungs heart chest clear acute stable mild small"
    " moderate pulmonary lower upper large disease changes change unchanged enlarged increasing"
    " effusion effusions lobe base bases spine ribs findings evidence process after line since"
    " prior significant interval new again compared previous study bilateral bibasilar not"
    " otherwise active film view views study unremarkable cardiac mediastinal silhouette".split()
)
_ENGLISH_ENDINGS = ("ed", "ly")
# Small words of German, Dutch, Danish, Swedish, Spanish, Portuguese, Italian, French and Polish.
_FOREIGN = frozenset(
    "der die das dem den des ein eine einer eines kein keine keinen nicht und mit ohne ist sind bei"
    " von zu auf im het een geen niet met zonder en er och inte ingen ikke og uden utan av el los"
    " las del de la le les du un una uno se sin ni y con por para que es sem com não o os da do dos"
    " das na no il lo gli della dei di e sono pas une est et avec sans sur aux nie w z bez się"
    " jest".split()
) - {"no", "do"}
_REMOVED = re.compile(r"\bX{3,}\b|_{2,}", re.I)


def label_report(text: str) -> Verdict:
    """The verdict on a whole free-text report; see `label_sections`."""
    if len(text) > MAX_CHARACTERS:
        return Verdict("unknown", "too_long")
    return label_sections(report_sections.sections(text))


def label_sections(sections: Mapping[str, str]) -> Verdict:
    """Whether a report calls the chest abnormal, by the strict coding described above.

    Where devices are all that is found, the rule begins with "device_". A report without a finding
    is normal if it calls anything normal, or denies what is usually denied.

    Args:
        sections: name in lower case -> text, as `sections` gives them.
    """
    sections = {name: report_sections.plain(text) for name, text in sections.items()}
    texts = [sections.get(name, "") for name in READ]
    if not any(texts):
        texts = [sections.get("wet read", "")]
    text = _join(texts)
    words = re.findall(r"[^\W\d_]+", text.replace(SECTION_END, "").lower())
    if not words:
        return Verdict("unknown", "empty")
    if len(text) > MAX_CHARACTERS:
        return Verdict("unknown", "too_long")
    if not _is_english(words):
        return Verdict("unknown", "not_english")
    clauses = report_clauses.read(text)
    rules = {clause.rule for clause in clauses} - {""}
    for rule in FINDINGS:
        if rule in rules:
            return Verdict("abnormal", rule)
    if any(clause.unclear for clause in clauses):
        return Verdict("unknown", "unclear")
    if rules:
        return Verdict("unknown", rules.pop())
    if not any(clause.normal for clause in clauses):
        return Verdict("unknown", "no_statement")
    rest = _join([text for name, text in sections.items() if name not in (*READ, *UNREAD)])
    if any(clause.rule for clause in report_clauses.read(rest[:MAX_CHARACTERS])):
        return Verdict("unknown", "other_section")
    return Verdict("normal", "normal_statement")


def _join(texts: Iterable[str]) -> str:
    return _REMOVED.sub(" ", f"\n\n{SECTION_END}\n\n".join(dict.fromkeys(texts)))


def _is_english(words: list[str]) -> bool:
    """Whether the words look English: by their letters, and by small words of English and others.

    A short report has few small words, so that those of chest films must be over a third of it.
    """
    if sum(map(str.isascii, words)) < 0.8 * len(words):
        return False
    english = sum(word in _ENGLISH or word.endswith(_ENGLISH_ENDINGS) for word in words)
    foreign = sum(word in _FOREIGN for word in words)
    if len(words) >= 10:
        return english > foreign and english >= len(words) / 10
    named = sum(
        word in ("no", "normal", "negative") or bool(report_clauses.FINDING.fullmatch(word))
        for word in words
        if word not in _ENGLISH
    )
    return english + named > max(foreign, len(words) / 3)
