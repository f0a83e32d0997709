"""A report's text -> what its clauses say is there, and what stays unclear.

A denial reaches as far as its own list: "no effusion, edema or pneumonia". What follows the list,
or breaks it, is said to be there: "no effusion, rib fractures noted". Where both readings are
possible ("no effusion, edema"), the finding is unclear.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from . import phrases
from .vocabulary import DIVIDED, FINDINGS, LIMB_RULES

SECTION_END = "end of section"


class Clause(NamedTuple):
    """What a clause comes to."""

    said: str  # its text, denied normality being `not_normal`
    rule: str  # the first of `FINDINGS`, or else `DIVIDED`, that fires on what it does not deny
    unclear: bool  # whether it names a finding that may or may not be denied
    normal: bool  # whether it calls something normal, or denies what is usually denied


_NEW_ITEM = re.compile(r"\n\s*\n|(?:\n|^)\s*(?:\(?\d{1,2}[.)]|[-*>])")
# A line that begins with a capital begins a sentence, unless the one before goes on.
_NEW_LINE = re.compile(
    r"(?<=[\w-])(?<!\bof)(?<!\bthe)(?<!\bor)(?<!\band)(?<!\bno)(?<!\bto)(?<!\ba)(?<!\bwith)(?<!\bin)"
    r" *\n\s*(?=[A-Z][a-z ])"
)
_REWRITES = [(re.compile(pattern), meaning) for pattern, meaning in phrases.REWRITES.items()]
_PART = re.compile(rf"\b{phrases.PART}\b")
_ABBREVIATION = re.compile(r"\b(?:e\.g\.|i\.e\.|vs\.|dr\.)")
_SHORT = 400  # characters of a sentence that is kept
_SEVERAL = re.compile(r"\b(?:are|were|have)\b")
_ONE = re.compile(r"\b(?:is|was|has|unlikely)\b")
_OR = re.compile(r"\b(?:or|nor)\b")
_FEW = 4  # words: more are a sentence, whose verb tells


def _words(table: Mapping[str, str]) -> dict[str, re.Pattern]:
    return {name: re.compile(rf"(?<!\w)(?:{pattern})(?!\w)") for name, pattern in table.items()}


_FINDINGS = _words(FINDINGS)
_DIVIDED = _words(DIVIDED)
FINDING = re.compile("|".join(rf"(?<!\w)(?:{one})(?!\w)" for one in FINDINGS.values()))
_ITEM = re.compile(rf"{FINDING.pattern}|{phrases.UNNAMED.pattern}")
_OF_CHEST = re.compile(
    "|".join(
        [phrases.OF_CHEST]
        + [rf"\b(?:{one})\b" for rule, one in FINDINGS.items() if rule not in LIMB_RULES]
    )
)
_DEVICES = [pattern for rule, pattern in FINDINGS.items() if rule.startswith("device_")]
_DEVICE = re.compile(rf"(?<!\w)(?:{'|'.join([phrases.REMOVABLE, *_DEVICES])})(?!\w)")


def read(text: str) -> list[Clause]:
    """The clauses of a report, without those on films of other parts of the body.

    A heading such as "left knee:" counts only beside one such as "chest:". A line `SECTION_END`
    stands between sections.
    """
    text = " ".join(_NEW_LINE.sub(" . ", _NEW_ITEM.sub(" . ", text)).lower().split())
    clauses: list[Clause] = []
    for sentence in phrases.SENTENCE_END.split(_ABBREVIATION.sub(" ", text)):
        clauses += (_known_sentence if len(sentence) < _SHORT else _sentence)(sentence.strip())
    several = any(phrases.THIS_FILM.fullmatch(clause.said) for clause in clauses)
    chest, elsewhere = [], ""  # the heading of a film of another part
    for clause in clauses:
        if clause.said == SECTION_END or phrases.THIS_FILM.fullmatch(clause.said):
            elsewhere = ""
        elif several and phrases.OTHER_FILM.fullmatch(clause.said):
            elsewhere = clause.said
        elif not elsewhere or _OF_CHEST.search(clause.said):
            chest.append(clause)
        elif phrases.OF_TRUNK.search(clause.said) and not phrases.OF_TRUNK.search(elsewhere):
            chest.append(clause)
    return chest


def _sentence(text: str) -> tuple[Clause, ...]:
    for pattern, meaning in _REWRITES:
        text = pattern.sub(meaning, text)
    return tuple(
        _clause(" ".join(clause.split())) for clause in phrases.CLAUSE_END.split(text) if clause
    )


_known_sentence = functools.lru_cache(20_000)(_sentence)  # most are said again and again


def _clause(text: str) -> Clause:
    text = phrases.DENIED_NORMAL.sub(_not_normal, text).strip()
    affirmed, doubted = _denials(text)
    rules = _FINDINGS if FINDING.search(affirmed) else _DIVIDED
    rule = next((rule for rule, pattern in rules.items() if pattern.search(affirmed)), "")
    normal = bool(phrases.NORMAL.search(text))
    untouched = affirmed.strip() == text  # nothing of it is denied or gone
    unclear = bool(FINDING.search(doubted)) or _is_unexplained(text, rule, normal, untouched)
    return Clause(text, rule, unclear, normal)


def _not_normal(found: re.Match) -> str:
    """ "Not clear" is `not_normal`; "no effusion, clear" and "not seen in clear" are not."""
    between = found["between"] or found["near"] or ""
    return found[0] if FINDING.search(between) else " not_normal "


def _is_unexplained(clause: str, rule: str, normal: bool, untouched: bool) -> bool:
    """Whether a clause says that something is there, or is an exception, and no rule knows what."""
    if "unexplained" in clause:
        return True
    if rule in FINDINGS:
        return False
    if clause.startswith("but "):
        return not (normal or FINDING.search(clause) or phrases.NO_EXCEPTION.search(clause))
    if not untouched or phrases.SAID_NORMAL.search(clause):
        return False
    words = re.findall(r"[a-z][a-z/.-]*", clause)
    strange = not phrases.NEUTRAL.issuperset(words)
    return strange and (len(words) <= _FEW or bool(phrases.STATED_UNNAMED.search(clause)))


def _denials(clause: str) -> tuple[str, str]:
    """What a clause affirms, and what it may or may not deny."""
    clause = phrases.PART_NORMAL.sub(lambda found: _PART.sub(" ", found[0]), clause)
    clause = phrases.NOTHING.sub(" ", clause)
    if "remov" in clause or "discontinued" in clause:
        for pattern in (phrases.REMOVED_BEFORE, phrases.REMOVED_AFTER):
            clause = pattern.sub(_without_device, clause)
    start, kept = 0, []
    for denial in phrases.DENIED_BEFORE.finditer(clause):
        kept.append(_before_reach(clause[start : denial.start()], denial))
        start = denial.end()
    clause = " , ".join([*kept, clause[start:]])
    denials = [*phrases.DENIED_AFTER.finditer(clause)]
    ends = [denial.start() for denial in denials] + [len(clause)]
    words = [denial[0] for denial in denials] + [""]
    affirmed, doubted, again = [clause[: ends[0]]], [], False
    for i, denial in enumerate(denials):
        reach = clause[denial.end() : ends[i + 1]]
        there, unclear = _list_end(reach, gone=bool(phrases.GONE.fullmatch(words[i])))
        if words[i + 1] == "nor":  # which ends the list as "or" does
            unclear = ""
        affirmed.append(there)
        doubted.append(reach if again else unclear)
        # "Not free of", "no lung is without": the second denial may undo the first.
        again = not FINDING.search(reach) and not re.search(r",|\b(?:and|or)\b", reach)
        again = again and words[i + 1] not in (words[i], "nor")
    return " , ".join(affirmed), " , ".join(doubted)


def _list_end(reach: str, *, gone: bool) -> tuple[str, str]:
    """What stands outside the list that a denial begins, and what may or may not belong to it."""
    reach, end, outside = reach.replace(",", " , "), 0, ""
    items: list[tuple[str, int, str]] = []  # link to the one before, where that begins, the name
    for finding in _ITEM.finditer(reach):
        between = reach[end : finding.start()]
        gap = ["/"] if between == "/" else between.replace("/", ",").split()
        link = _link(gap, items[-1][2], finding[0], gone=gone) if items else _first(gap)
        if not link:
            outside = reach[end:]
            break
        items.append((link, end, finding[0]))
        end = finding.end()
    closed = max((i for i, (link, *_) in enumerate(items) if link == "or"), default=0)
    loose = [item for item in items[closed + 1 :] if item[0] != "same"]
    if not loose:
        return outside, ""
    first, start, _ = loose[0]
    tail = reach[end:] if not outside else ""
    asserted = not phrases.IN_LISTS.union(phrases.SEEN).issuperset(tail.split())
    if asserted or (closed and first == ","):
        return reach[start:], ""
    usual = all(link == "," and phrases.USUALLY_DENIED.fullmatch(name) for link, _, name in loose)
    if len(loose) > 1 and usual and not outside:
        return "", ""
    return outside, reach[start:end]


def _first(gap: Sequence[str]) -> str:
    """ "same" if a denial reaches the first finding after it, else ""."""
    if "," in gap:
        return "same" if gap[0] != "," and phrases.IN_FIRST_ITEM.issuperset(gap) else ""
    return "" if phrases.ENDS_REACH.intersection(gap) else "same"


def _link(gap: Sequence[str], before: str, after: str, *, gone: bool) -> str:
    """How the second of two findings continues the list of the first; "" if it does not."""
    if {"of", "for"}.intersection(gap[:2]) and phrases.UNNAMED.fullmatch(before):
        return _first(gap)  # "no evidence of": the finding itself is yet to come
    known = phrases.IN_FIRST_ITEM if gone else phrases.IN_LISTS
    for i, word in enumerate(gap):
        if word in ("or", "nor", "and/or") and known.issuperset(gap[:i]):
            rest = gap[i + 1 :]
            return "" if "," in rest or phrases.ENDS_REACH.intersection(rest) else "or"
    if gap == ["/"]:
        return "same"  # "effusion/pneumothorax"
    if not known.issuperset(gap):
        suggested = "suggest" in gap and not phrases.ENDS_REACH.intersection(gap)
        return "same" if suggested else ""
    if "," in gap or "and" in gap:
        return "same" if gone and "," not in gap else ("," if "," in gap else "and")
    explained = phrases.EXPLAINS.intersection([*gap, after])
    if explained or phrases.DESCRIBING.search(before):
        return "same"
    return "next"  # with a comma forgotten, or a line's end without a full stop


def _before_reach(text: str, denial: re.Match) -> str:
    """What precedes a denial and is out of its reach.

    "The heart is large, effusions are not seen": the heart is large all the same. "Edema and
    effusions have resolved" denies both, "edema and effusion has resolved" the last.
    """
    verb = " ".join([*text.split()[-2:], denial[0]])
    one = bool(_ONE.search(verb)) and not (denial["seen"] or _SEVERAL.search(verb))
    for end in reversed([*phrases.REACH_END.finditer(text)][-8:]):  # so that time stays linear
        before, after = text[: end.start()], text[end.end() :]
        if phrases.STATED.search(before) and re.search(r"\w", after):
            return before
        nearest = one and end[0] in (",", "and", "with") and not _OR.search(after)
        if (nearest or (denial["seen"] and phrases.SIDED.search(before))) and FINDING.search(after):
            return before
    return ""


def _without_device(found: re.Match) -> str:
    """What is left of the words up to "removed", or from "removal of" on."""
    left = _DEVICE.sub(" ", found[0])
    # Where it was no device, it is what stands nearest: "the mass was removed".
    return left if left != found[0] else phrases.NAMED_REMOVED.sub(" ", left)
