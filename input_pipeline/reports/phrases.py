r"""The tables by which a report is read: negations, norms and findings.

They meet lower-case text on one line, from which removed words (`___`) are gone. Gaps are counted,
as in `(?:\S+ ){0,4}`, so that time grows with the length of a report and no faster.
"""

import re

# Replaced first: pattern -> what it means. Most look like negations and are none.
REWRITES: dict[str, str] = {
    r"n't\b|(?<=\bcan)not\b": " not",
    r"\bwo not\b": "will not",
    r"\banything but\b": "not",
    r"\bnothing but\b": "with",
    r"(?<=\w)\((e?s)\)": r"\1",
    r"\b\d{1,2}\)": " . ",
    r"[()\[\]]": " , ",
    r"\bconsistent with\b": "consistent",
    r"\bcompatible with\b": "compatible",
    # "Pneumothorax: none."
    r": ?(?:none|no|absent|negative|nil)\b(?= ?(?:[.;,]|$))": " is absent",
    r"\bwnl\b": "within normal limits",
    r"\b(?:no|not a|without(?: a| any)?|beyond(?: a| any)?) (?:\w+ )?(?:doubt|question)\b": (
        "certainly"
    ),
    r"\bnot (?:only|just|merely|simply)\b": "also",
    r"\bnot (?:\w+ )?(?:without|free of|free from|lacking)\b": "with",
    r"\bno (?:lack|shortage|absence) of\b": "with",
    r"\bnot (?:\w+ ){0,2}?(?:unlikely|inconsistent|incompatible|impossible)\b": "possible",
    # "It is not true that the lungs are clear."
    r"\b(?:not|never|hardly|false|untrue|wrong|incorrect|doubt\w*|unlikely)(?: [\w']+){0,3}?"
    r" that\b[^.,;:!?]*": "unexplained",
    # What an exception is made of stands in a clause of its own.
    r"\b(?:but|except(?:ing|ion)?|however|(?:aside|apart) from|other than|save for|besides|despite)"
    r"\b": " . but ",
    # "No change in the effusion": the effusion is there.
    r"\b(?:no|without|not) (?:\w+ ){0,3}?(?:changes?|changed|progression|improvement|increase"
    r"|decrease|worsening|clearing)\b": "stable",
    r"\b(?:no|not|without) ((?:\w+ ){0,2}?)(?:excluded?|ruled out)\b": r"possible \1",
    r"\bno (?:larger|smaller|bigger|worse|better)\b": "stable",
    r"\bonly (?:on |in |at )?(?:the )?(?:left|right|one|upper|lower)\b": "unexplained",
    # "A nodule not seen before": it is there now.
    r"\bnot (?:\w+ )?(?:previously|formerly) (?:\w+ )?(?:seen|present|noted|visible)\b": "new",
    r"\bnot (?:\w+ ){0,2}?(?:seen|present|noted|visible|there) (?:\w+ )?"
    r"(?:before|previously|earlier|(?:19|20)\d\d)\b": "new",
    r"\b(?:cannot|can't|can not) (?:be )?(?:\w+ )?(?:be )?(?:excluded?|ruled? out)\b": "possible",
    # What is nearly gone is there.
    r"\b(?:near|nearly|almost|partial|partially|incomplete|incompletely|mostly|largely)[ -]"
    r"(?:complete(?:ly)? )?(?:interval )?(?:resolv\w+|resolution|clearing|cleared)": "improved",
    # "Not seen on the lateral view": on the other it is.
    r"\b(?:not|no longer) (?:\w+ ){0,2}?(?:seen|visuali[sz]ed|identified|present|appreciated"
    r"|demonstrated|evident) (?:on|in) (?:the )?(?:\w+ ){0,2}?(?:prior|previous|comparison|lateral"
    r"|frontal|pa|ap|recent)\b": "elsewhere",
}

_NORMAL = r"(?:normal|unremarkable|clear|intact|preserved|within (?:\w+ )?(?:normal )?limits)"
# What else is said where nothing is found: denied, it is a finding.
_SOUND = (
    rf"(?:{_NORMAL}|normally|midline|sharp|(?:well|fully)[ -]?(?:expanded|inflated|aerated|\w+ed)"
    r"|expanded|inflated|aerated|aligned|symmetric\w*|maintained|satisfactory|adequate|negative"
    r"|smooth|regular|patent|good|healthy|benign)"
)
# "The heart is not normal", "neither lung is clear", "larger than normal".
_STOP = (
    rf"(?:no|not|never|nor|without|changed?|diseases?|process\w*|evidence|findings?"
    rf"|seen|visuali[sz]ed|identified|{_SOUND})"
)
DENIED_NORMAL = re.compile(
    r"\b(?:(?:not|never|neither|none|nor|no longer|cannot|hardly|barely|scarcely|fails?|failed"
    r"|nothing like|nowhere near|by no means|false|untrue|wrong|doubt\w*|unlikely|lacks?|lost"
    r"|nobody|no one|few|rarely|seldom"
    rf"|loss of|absen(?:t|ce of))(?P<between>(?: (?!{_STOP}\b)[\w'/-]+){{0,8}}?)"
    rf"|(?:no|without|non|far from|rather than|instead of|formerly|previously|once|used to be"
    r"|almost|nearly|mostly"
    r"|partly|partially|incompletely|\w+er than|(?:more|less|other) than|outside|out of"
    rf"|above|below|beyond|exceed\w*)(?P<near>(?: (?!{_STOP}\b)[\w'/-]+){{0,3}}?))"
    rf"[ -](?:{_SOUND}|stable|unchanged)\b"
    rf"|\b{_NORMAL} no more\b"
    # "Clear lungs are not seen." "The left lung is clear; the right is not."
    rf"|\b{_NORMAL}(?: [\w/-]+){{0,5}}? (?:is|are|was|were|be) (?:not|never|no longer|absent|lost)"
    r"(?: (?:seen|shown|present|true|so|certain|confirmed|the case))?$"
    r"|\b(?:is|are|was|were|do|does|did|has|have) not$|^(?:no|not|not so|false|untrue)$|^.+ not$"
)
PART = (  # has an abnormal sound, but can be normal
    r"(?:markings|vascul\w+|vessels|engorgement|volumes?|fissures?|\w*curvature|lordosis|kyphosis"
    r"|retrocardiac|retrosternal|shadows?|parenchyma\w*|interstiti\w+|alveolar|lymph|nodes?|density"
    r"|thymic|fat|mineralization|lines|inflation|expansion|aeration)"
)
_WORD = r"(?:(?!(?:no|not|without|of|with|and|present|noted|seen|again|demonstrated)\b)[\w/-]+ )"
_MORE = "".join(
    rf"(?<!{word} )" for word in ("increased", "prominent", "coarse", "coarsened", "hazy", "low")
)
# With one of these, another statement begins.
_SUBJECT = r"(?!(?:the|heart|cardiac|mediastin\w+|lungs are|both|bones?)\b)"
# Within these, the names of parts tell of no finding.
PART_NORMAL = re.compile(
    rf"{_MORE}\b{PART} (?!loss)(?:{_WORD}{{0,2}}?and )?(?:{_SUBJECT}{_WORD}){{0,6}}?{_NORMAL}\b"
    rf"|\b{_NORMAL}(?<!intact)(?<!clear)(?<!limits) {_WORD}{{0,5}}?{PART}(?: {PART}){{0,2}}\b"
    rf"|\b{_NORMAL} {_WORD}{{0,4}}?and {_WORD}{{0,3}}?{_MORE}(?:vascul\w+ )?"
    r"(?:markings|vascul\w+|volumes)\b"
)
# Phrases that tell of no finding though they may hold the name of one.
NOTHING = re.compile(
    r"\bnormal variant\b"
    # What a film might miss, what was asked, what to look for.
    r"|\b(?:more sensitive|if (?:there|clinical\w*|symptom\w*|concern\w*|further|persist\w*))"
    r"\b(?: (?!(?:and|with)\b)[^ ,]+)*"
    r"|\bplease note (?:that )?(?:\w+ ){1,4}?(?:may|might|can|could) not\b[^,]*"
    r"|\b(?:evaluat\w+|assess\w*|screen\w*|history|correlat\w+) (?:for|of)"
    r"(?: (?!shows?\b|demonstrates?\b|reveals?\b|is\b|are\b|was\b|were\b)[^ ,]+)+"
)

_SHOWN = (
    r"(?:seen|visuali[sz]ed|identified|present|appreciated|demonstrated|evident|noted|observed"
    r"|apparent|detected)"
)
_LEFT = r"(?:gone|resolved|cleared|absent|excluded|unlikely)"
_LATELY = r"now |since |all |both |also |completely |fully |entirely "
# What is said of a finding that is there: "No pneumothorax, moderate edema".
_STATE = (
    r"(?:stable|unchanged|persist\w+|residual|known|mild(?:ly)?|minimal(?:ly)?|small|moderate(?:ly)?"
    r"|severe(?:ly)?|large|extensive|marked(?:ly)?|bibasilar|bibasal|worse\w*|increas(?:ed|ing)"
    r"|improv(?:ed|ing)|enlarging|developing|evolving|positive|heal(?:ed|ing)|old|remote|chronic"
    r"|resolving|remaining|recurrent|subtle|faint|slight|probable|possible|likely|multiple|several)"
)
_SIDE = r"(?:left|right|bilateral|bibasilar|bibasal|biapical)"
# "No consolidation, large effusion, or pneumothorax" and "no small, moderate or large effusion" go
# on; "no consolidation, large left effusion, or ..." does not.
_NO_MORE_ITEMS = r"(?![^.;:]{0,80}?(?:, |\b(?:or|nor)\b))"
_VERB = (
    r"(?:(?:is|are|was|were|has|have)"
    rf" (?!(?:not |no longer |been |{_LATELY})*(?:{_SHOWN}|{_LEFT}|removed))"
    r"|(?:may|might|could|persists?|remains?|appears?|continues?|unchanged|stable|worse"
    r"|increas(?:ed|ing)|improv(?:ed|ing))\b)"
)
# Not "1.5" and "p.a."
SENTENCE_END = re.compile(r"\.(?= |$)|(?<!\b[a-z])\.(?!\d)|(?<!\d)\.(?=\d)")
# A clause ends here, and with it what a negation reaches.
CLAUSE_END = re.compile(
    r"[.;!?*|]+(?!\d)|:(?!\d)| -+(?= ?\w)|--+"
    r"|\b(?:although|though|while|whereas|yet)\b"
    r"|(?:,|\band)? ?(?<!\bif )(?=\bthere (?:is|are|has|have)\b)"
    r"|(?:,|\band\b) ?(?=(?:the|a|an|this|these|with)\b)"
    r"|(?:,|\bwith\b) ?(?=(?:chronic|prior|old)\b)"
    rf"|(?:,|\b(?:and|with)\b) ?(?=(?!large\b){_STATE}\b(?!,? (?:or|to)\b))"
    rf"|(?:,|\b(?:and|with)\b) ?(?=large {_SIDE}\b)|\b(?:and|with) (?=(?:large|new)\b)"
    r"|(?:\band|, and) (?=bilateral \w)|, and (?=(?:left|right) \w)"
    r"|\bwith (?=(?:bilateral|left|right|associated|new)\b)"
    rf"|, (?=(?:large|new|low|diffuse|patchy|hazy|streaky|trace|tiny|{_SIDE}) \w){_NO_MORE_ITEMS}"
    # "No effusion, heart is large", but not "no mass, nodule is seen".
    rf"|(?:, |\band )(?=(?:(?!or\b|nor\b|and\b)[\w-]+ ){{1,4}}{_VERB})"
    r"|\b(?:after|following|since|status post|s/p) (?=(?:\w+ ){0,5}(?:placement|insertion)\b)"
)
# What follows in the clause is denied. "Clear airspace disease" is what dictation makes of "of".
DENIED_AFTER = re.compile(
    r"\b(?:no|not|without|w/o|never|negative(?= (?:for|of|acute)\b)|free (?:of|from)"
    r"|clear (?:of|from|(?:focal )?airspace)|absence of|neither|nor|rather than|instead of"
    r"|exclude|rule out|resolved|cleared"
    r"|(?:resolution|disappearance|clearing) of)\b"
)
# These deny everything that they name: it was there, and is gone.
GONE = re.compile(r"resolved|cleared|(?:resolution|disappearance|clearing) of")
# What precedes in the clause is denied, as far back as `REACH_END` and `STATED` allow.
DENIED_BEFORE = re.compile(
    rf"\b(?P<seen>not) (?:definitely |currently )?{_SHOWN}\b|\bno longer (?:{_SHOWN}|in place)\b"
    rf"|\b(?:has|have|had|is|are|was|were|been) (?:been |{_LATELY})?{_LEFT}\b|\bunlikely\b"
    r"|\bwith (?:interval |complete )?resolution\b(?! of)"
)
# "Left pneumonia and an edema that has resolved": how far back a denial may reach.
REACH_END = re.compile(
    r",(?! ?(?:or|nor)\b)|\b(?:and|with|after|following|since|status post|s/p|which)\b"
)
# Ahead of such an end, these make a statement of their own, which is not denied.
STATED = re.compile(
    r"(?<!which )(?<!that )\b(?:is|are|was|were|has|have|may|shows?|demonstrates?|persists?"
    r"|remains?|appears?|continues?|stable|unchanged|persist\w+|residual|new|worse\w*"
    r"|increas(?:ed|ing)|improv(?:ed|ing))\b"
)
SIDED = re.compile(rf"\b{_SIDE}\b")
# Only devices are gone when removed: a pneumothorax that is named beside them is there.
REMOVED_BEFORE = re.compile(
    r"\b(?:(?!(?:in|place|remains?|terminat\w*|tips?|ends?|lies|unchanged|stable|new|with)\b)"
    r"\S{1,40} ){1,12}?(?:removed|discontinued|removal(?! of))\b"
)
REMOVED_AFTER = re.compile(r"\bremoval of(?: (?!with\b)\S{1,40}){1,12}")
NAMED_REMOVED = re.compile(
    r"^removal of.*|[\w-]+ (?:(?:is|are|was|were|has|have|been|now|since) )*(?:removed|removal)$"
)
REMOVABLE = r"clips?|surgical|wires?|staples?|sutur\w+|hardware|needle"
# Words between the findings of a list that a denial governs, none of which says what is there.
IN_LISTS = frozenset(
    ", / and a an any of for to the no such as acute active focal large definite definitive visible"
    " obvious gross overt discrete confluent frank significant measurable sizable sizeable"
    " appreciable substantial convincing discernible typical characteristic dominant new other"
    " pulmonary pleural lobar lung lungs cardiac cardiopulmonary intrathoracic thoracic chest hilar"
    " mediastinal vascular venous bone bones bony osseous osseus rib ribs joint spinal vertebral"
    " body bodies displaced nondisplaced non-displaced soft tissue tissues segmental subsegmental"
    " free subdiaphragmatic intraperitoneal peritoneal costophrenic angle angles evidence sign"
    " signs area areas collection collections change"
    " changes formation level levels appearing appearance suggest suggestive suggesting indicate"
    " indicating consistent compatible since radiographic radiographically".split()
)
IN_FIRST_ITEM = IN_LISTS | frozenset(
    "or nor right left bilateral unilateral small moderate mild severe minimal trace upper lower"
    " middle lobe basilar basal apical".split()
)
SEEN = frozenset(
    "seen identified visualized visualised appreciated demonstrated evident detected apparent"
    " observed is are was were be been can to has have on in this these study film films exam"
    " examination radiograph radiographs view views today".split()
)
# Links by which the next name is of the same finding: "opacity to suggest pneumonia".
EXPLAINS = frozenset(
    "of for to suggest suggestive suggesting indicate indicating consistent".split()
)
EXPLAINS |= {"compatible", "since", "like", "as", "concerning", "suspicious", "worrisome"}
# A finding's first word, before its name: "interstitial edema", "suspicious nodule".
DESCRIBING = re.compile(
    r"(?:al|(?<!sc)ar|ic|ive|ous|ed|ary|dense|opaque|like|space|glass|haz[ey]|patchy|streaky)$"
)
# Names that a list may hold beside those of findings.
UNNAMED = re.compile(r"\b(?:diseases?|process(?:es)?|findings?|evidence|signs?)\b")
USUALLY_DENIED = re.compile(
    r"effusions?|\w*pneumothora\w+|consolidat\w+|pneumonia|o?edema|infiltrat\w+|\w*opacit\w+"
    r"|air ?-?space|\w*adenopathy|mass(?:es)?|nodules?|fractures?"
)
# A denial does not reach beyond one of these.
ENDS_REACH = frozenset(
    ", and with but due because given owing secondary despite attributable by under underlying"
    " comparison comparisons behind after following which who when while plus beside besides"
    " over superimposed status where including".split()
)
# An exception that is none: "but limited".
NO_EXCEPTION = re.compile(
    r"stable|unchanged|limited|technique|study|exam\w*|rotat\w+|recommend\w*|clinical\w*"
)
# Something is said to be there, though no rule knows its name.
STATED_UNNAMED = re.compile(
    r"\b(?:there (?:is|are|has|have|remains?)|(?:is|are) (?:again )?(?:present|visible)|seen|noted"
    r"|identified|visuali[sz]ed|demonstrated|suspect\w*|suspicion|concern|features of|compatible"
    r"|consistent|stable|unchanged|likely|probabl[ey]|possibl[ey]|development of"
    r"|increase in|new|developed|persists?"
    r"|presence)\b"
)
# Said with one of these, nothing is found.
SAID_NORMAL = re.compile(
    rf"\b(?:no|not|nor|never|neither|without|free|resolved|cleared|{_SOUND})\b"
)
# A few words of none but these name a part or the film, and no finding.
NEUTRAL = frozenset(
    "better multiple heart cardiac size silhouette silhouettes cardiomediastinal mediastinum"
    " mediastinal hilum hila hilar contour contours lung lungs pulmonary pleura pleural space"
    " spaces bone bones bony osseous structure structures thorax thoracic cage skeletal skeleton"
    " rib ribs spine lumbar cervical soft tissue tissues trachea tracheal aorta aortic arch knob"
    " diaphragm diaphragms hemidiaphragm hemidiaphragms costophrenic angle angles sulcus sulci"
    " airway airways vasculature vascularity vessels vascular apex apices base bases lobe lobes"
    " zone zones field fields abdomen upper lower middle mid left right bilateral bilaterally"
    " both chest view views film films image images imaging radiograph radiographs x-ray x-rays"
    " x- xray ray rays exam examination study studies technique portable pa ap lateral frontal"
    " single two one three obtained submitted available comparison compared prior previous"
    " limited projection upright supine erect semi semierect the a an and or of in on at to for"
    " with by from as is are was were be been has have had this that these those it its there"
    " here which also again otherwise visualized visualised imaged included remaining remainder"
    " overall general appearance position configuration caliber course findings finding"
    " impression report reports end section date time day days ago week month year years old no."
    " i ii iii md above below note addendum but same similar patient overlapping visible"
    " structural given hours hour am pm discussed telephone phone read reviewed signed"
    " electronically results result none na n/a interval change changes recent per level levels"
    " age follow-up follow up recommend recommended clinical clinically correlation suggested ct"
    " obese shielded rotated more sensitive seen noted identified demonstrated slight slightly"
    " rotation underpenetration underpenetrated overpenetrated penetration exposed motion"
    " artifact artifacts body habitus quality technical allowing inspiration inspiratory"
    " expiratory expiration effort evaluation interpretation assessment suspected compatible"
    " consistent possible likely stable unchanged".split()
)

# Findings of the trunk are not seen on a film of a knee, but may be on one of the spine.
OF_TRUNK = re.compile(
    r"\b(?:spin(?:e|es|al)|clavic\w+|vertebra\w+|stern\w+|scapul\w+|shoulders?|neck|\w*scolio\w+"
    r"|kypho\w+|lordo\w+)\b"
)
# On a film of another part, these tell of the chest.
OF_CHEST = (
    r"\b(?:lungs?|pulmonary|pleural|ribs?|heart|cardi\w+|pericard\w+|mediast\w+|hil(?:a|ar|um)|chest"
    r"|not_normal|unexplained)\b"
)

# Without a finding, any of these makes a report normal.
NORMAL = re.compile(
    rf"\b{_NORMAL}\b|\bnegative\b|\b(?:no|without) (?:\w+ ){{0,3}}?(?:acute|active|abnormal\w*"
    r"|disease|findings?|evidence|focal|pleural|pneumothora\w+|effusions?|infiltrates?|edema"
    r"|consolidation\w*|pneumonia|cardiopulmonary|cardiomegaly|fractures?|mass(?:es)?"
    r"|nodul\w+|opaci\w+)\b"
)

# A clause of nothing but another part of the body heads the reading of another film.
OTHER_FILM = re.compile(
    r"(?:(?:and |, )?(?:(?:left|right|bilateral|both) )?(?:knee|hip|ankle|elbow|forearm|wrist|hand"
    r"|finger|shoulder|femur|femora|humerus|tibia|leg|arm|clavicle|scapula|sternum|abdomen"
    r"|pelvis|foot|feet|neck|skull|(?:cervical|thoracic|lumbar|lumbosacral|sacral) spine)s? ?){1,3}"
)
THIS_FILM = re.compile(r"(?:\w+[- ]views? )?chest")
