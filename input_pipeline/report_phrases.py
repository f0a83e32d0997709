r"""The tables by which `reports` reads a report: negations, norms and findings.

They meet lower-case text on one line, from which removed words (`___`) are gone. Gaps are counted,
as in `(?:\S+ ){0,4}`, so that time grows with the length of a report and no faster.
"""

# Read before all else: pattern -> what it means. They look like negations and are none.
REWRITES: dict[str, str] = {
    # "No change in the effusion": the effusion is there.
    r"\b(?:no|without|not) (?:\w+ ){0,3}?(?:change|changed|progression|improvement|increase"
    r"|decrease|worsening|clearing)\b": "stable",
    r"\b(?:no|not|without) (?:\w+ ){0,2}?(?:excluded?|ruled out)\b": "possible",
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
_PART = (  # has an abnormal sound, but can be normal
    r"(?:markings|vascul\w+|vessels|engorgement|volumes?|fissures?|\w*curvature|lordosis|kyphosis"
    r"|retrocardiac|retrosternal|shadows?|parenchyma\w*|interstiti\w+|alveolar|lymph|nodes?|density"
    r"|thymic|fat|mineralization|lines|inflation|expansion|aeration)"
)
_WORD = r"(?:(?!no\b|not\b|without\b|of\b)[\w/-]+ )"

# Phrases that tell of no finding though they may hold the name of one.
NOTHING: tuple[str, ...] = (
    rf"\b{_PART} {_WORD}{{0,6}}?{_NORMAL}\b",
    rf"\b{_NORMAL} {_WORD}{{0,5}}?{_PART}(?: {_PART}){{0,2}}\b",
    r"\bnormal variant\b",
    # What a film might miss, what was asked, what to look for.
    r"\b(?:please note|more sensitive|if (?:there|clinical\w*|symptom\w*|concern\w*|further"
    r"|persist\w*))\b[^,]*",
    r"\b(?:evaluat\w+|assess\w*|screen\w*|history|correlat\w+) (?:for|of) [^,]*",
)

_SHOWN = (
    r"(?:seen|visuali[sz]ed|identified|present|appreciated|demonstrated|evident|noted|observed"
    r"|apparent|detected)"
)
_GONE = r"(?:gone|resolved|cleared|absent|excluded|unlikely)"
_LATELY = r"now |since |all |both |also |completely |fully |entirely "
# What is said of a finding that is there: "No pneumothorax, moderate edema".
_STATE = (
    r"(?:stable|unchanged|persist\w+|residual|known|mild(?:ly)?|minimal(?:ly)?|small|moderate(?:ly)?"
    r"|severe(?:ly)?|large|extensive|marked(?:ly)?|bibasilar|bibasal|worse\w*|increas(?:ed|ing)"
    r"|improv(?:ed|ing)|enlarging|developing|evolving|positive)"
)
_SIDE = r"(?:left|right|bilateral|bibasilar|bibasal|biapical)"
# "No consolidation, large effusion, or pneumothorax" and "no small, moderate or large effusion" go
# on; "no consolidation, large left effusion, or ..." does not.
_NO_MORE_ITEMS = r"(?![^.;:]{0,80}?(?:, |\b(?:or|nor)\b))"
_VERB = (
    r"(?:(?:is|are|was|were|has|have)"
    rf" (?!(?:not |no longer |been |{_LATELY})*(?:{_SHOWN}|{_GONE}|removed))"
    r"|(?:may|might|could|persists?|remains?|appears?|continues?|unchanged|stable|worse"
    r"|increas(?:ed|ing)|improv(?:ed|ing))\b)"
)
# A clause ends here, and with it what a negation reaches.
CLAUSE_END = (
    r"[.;:!?](?!\w)| [-\u2013\u2014]+ "
    r"|\b(?:but|however|although|though|while|whereas|except|yet|aside from|apart from"
    r"|other than)\b"
    r"|(?:,|\band)? ?(?<!\bif )(?=\bthere (?:is|are|has|have)\b)"
    r"|(?:,|\band\b) ?(?=(?:the|a|an|this|these|with)\b)"
    r"|(?:,|\bwith\b) ?(?=(?:chronic|prior|old)\b)"
    rf"|(?:,|\b(?:and|with)\b) ?(?=(?!large\b){_STATE}\b(?!,? (?:or|to)\b))|\((?={_STATE}\b)"
    rf"|(?:,|\b(?:and|with)\b) ?(?=large {_SIDE}\b)|\b(?:and|with) (?=(?:large|new)\b)"
    r"|(?:\band|, and) (?=bilateral \w)|, and (?=(?:left|right) \w)"
    r"|\bwith (?=(?:bilateral|left|right|associated|new)\b)"
    rf"|, (?=(?:large|new|low|diffuse|patchy|hazy|streaky|trace|tiny|{_SIDE}) \w){_NO_MORE_ITEMS}"
    # "No effusion, heart is large", but not "no mass, nodule is seen".
    rf"|(?:, |\band )(?=(?:(?!or\b|nor\b|and\b)[\w-]+ ){{1,4}}{_VERB})"
    r"|\b(?:after|following|since|status post|s/p) (?=(?:\w+ ){0,5}(?:placement|insertion)\b)"
)
# What follows in the clause is denied. "Clear airspace disease" is what dictation makes of "of".
DENIED_AFTER = (
    r"\b(?:no|not|without|w/o|never|negative|free (?:of|from)|clear (?:of|from|(?:focal )?airspace)"
    r"|absence of|neither|nor|rather than|instead of|exclude|rule out|resolved|cleared"
    r"|(?:resolution|disappearance|clearing) of)\b"
)
# What precedes in the clause is denied, as far as `reports` reaches back.
DENIED_BEFORE = (
    rf"\b(?P<seen>not) (?:definitely |currently )?{_SHOWN}\b|\bno longer (?:{_SHOWN}|in place)\b"
    rf"|\b(?:has|have|had|is|are|was|were|been) (?:been |{_LATELY})?{_GONE}\b|\bunlikely\b"
    r"|\bwith (?:interval |complete )?resolution\b(?! of)"
)
# "Left pneumonia and an edema that has resolved": how far back a denial may reach.
REACH_END = r",(?! ?(?:or|nor)\b)|\b(?:and|with|after|following|since|status post|s/p|which)\b"
# Ahead of such an end, these make a statement of their own, which is not denied.
STATED = (
    r"(?<!which )(?<!that )\b(?:is|are|was|were|has|have|may|shows?|demonstrates?|persists?"
    r"|remains?|appears?|continues?|stable|unchanged|persist\w+|residual|new|worse\w*"
    r"|increas(?:ed|ing)|improv(?:ed|ing))\b"
)
SIDED = rf"\b{_SIDE}\b"
# "No pneumothorax or effusion, cardiomegaly": what follows a closed list of findings is there.
CLOSED = r"(?<!\S)(?P<finding>\S{1,40}) (?:or|nor) [^,]{1,60},(?P<more> (?!or\b|nor\b|and\b)[^,]*)$"
# Of what was removed, devices alone are gone: a pneumothorax that is named beside them is there.
REMOVED_BEFORE = (
    r"\b(?:(?!(?:in|place|remains?|terminat\w*|tips?|ends?|lies|unchanged|stable|new|with)\b)"
    r"\S{1,40} ){1,12}?(?:removed|discontinued|removal(?! of))\b"
)
REMOVED_AFTER = r"\bremoval of(?: (?!with\b)\S{1,40}){1,12}"
NAMED_REMOVED = (
    r"^removal of.*|[\w-]+ (?:(?:is|are|was|were|has|have|been|now|since) )*(?:removed|removal)$"
)
REMOVABLE = r"clips?|surgical|wires?|staples?|sutur\w+|hardware|needle"
# Without a finding, any of these makes a report normal.
NORMAL = (
    rf"\b{_NORMAL}\b|\bnegative\b|\b(?:no|without) (?:\w+ ){{0,3}}?(?:acute|active|abnormal\w*"
    r"|disease|findings?|evidence|focal|pleural|pneumothora\w+|effusions?|infiltrates?|edema"
    r"|consolidation\w*|pneumonia|cardiopulmonary|cardiomegaly|fractures?|mass(?:es)?"
    r"|nodul\w+|opaci\w+)\b"
)

# A clause of nothing but another part of the body heads the reading of another film.
OTHER_FILM = (
    r"(?:(?:and |, )?(?:(?:left|right|bilateral|both) )?(?:knee|hip|ankle|elbow|forearm|wrist|hand"
    r"|finger|shoulder|femur|femora|humerus|tibia|leg|arm|rib|clavicle|scapula|sternum|abdomen"
    r"|pelvis|foot|feet|neck|skull|(?:cervical|thoracic|lumbar|lumbosacral|sacral) spine)s? ?){1,3}"
)
THIS_FILM = r"(?:\w+[- ]views? )?chest"

# In an English report of some length, one word in ten or more is one of these or ends so.
ENGLISH = frozenset(
    "the of is are and or there with without seen for was were has have been be this that may on at"
    " as by from within limits size right left lung lungs heart chest clear acute stable mild small"
    " moderate pulmonary lower upper large disease changes unchanged enlarged increasing effusion"
    " effusions lobe base spine ribs findings evidence process after line".split()
)
ENGLISH_ENDINGS = ("ed", "ly")

_LARGER = (
    r"(?:(?:enlarg|prominen|dilat|widen|full|increas|accentuat|lobulat|abnormal|bulg)\w*|wide)"
)
_LOWER = r"(?:low|lower|small|smaller|decreased|reduced|diminished|poor|shallow|suboptimal)"
_HEART = (
    r"(?:mediastin\w+|hil(?:um|a|ar)|silhouette|contours?|arter\w+|vess\w+|vascul\w+|paratracheal"
    r"|heart|cardiac)"
)

# rule -> what says so, between edges of words. The first rule that is met names the verdict.
FINDINGS: dict[str, str] = {
    "pneumothorax": r"\w*pneumothora\w+",
    "free_air": r"pneumo-?(?:mediastin|periton|pericard)\w+|free (?:intraperitoneal )?air"
    r"|(?:subcutaneous|soft tissue) (?:emphysema|air|gas)|air[ -/]+fluid",
    "effusion": r"effusions?|fluid|h(?:a?em|ydr|chyl)\w*thora(?:x|ces)|empyema\w*",
    "edema": r"o?edema\w*|heart failure|chf|kerley|septal lines?|b[ -]lines|overload|cuffing"
    r"|cephali[sz]\w+|redistribution",
    "congestion": r"congest\w+|engorge\w*|plethora|hypertension|indistinct\w*"
    r"|vascular (?:prominence|fullness)",
    # "Upper limits of normal" is normal, "borderline" is not.
    "cardiomegaly": r"cardio-?megaly|borderline|globular|cardiomyopathy"
    r"|heart (?:\S+ ){0,3}(?:large|big)|large (?:heart|cardiac)|ventricular hypertrophy",
    "pneumonia": r"\w*pneumoni\w+|infect\w+|inflam\w*|bronchi(?:oli)?tis|aspirat\w+"
    r"|tubercul\w+|tb|\w+plasmosis|mycobacter\w+|abscess\w*|fung\w+|mycetoma|sarcoid\w*|covid\S*",
    "consolidation": r"consolidat\w*|air bronchograms?|silhouett(?:ing|e sign)",
    "atelectasis": r"\w*atelecta\w*|collaps\w+|loss of (?:\w+ )?volume|volume loss|plate-?like"
    r"|band-?like|aeration (?:change|abnormal)\w*",
    "mass": r"mass(?:es)?|mass-?like|tumou?rs?|neoplas\w+|carcino\w+|cancer|malignan\w+|lumps?"
    r"|lymphoma|metasta\w+|mets|myeloma|thymoma|lesions?",
    "nodule": r"\w*nodul\w*|cavit(?:y|ies|ary|ation\w*)|cyst\w*|pneumatocele\w*|bullae?|bullous"
    r"|blebs?",
    "granuloma": r"granuloma\w*|hamartoma\w*",
    "opacity": r"\w*opaci\w*|infiltrat\w+|(?:air|alveolar)[ -]?space|alveolar|ground[ -]?glass"
    r"|haz[eiy]\w*|densit(?:y|ies)|(?:decreased|increased) (?:translucency|attenuation)"
    r"|patch(?:y|es)|streak\w*|retrocardiac|shadow(?:s|ing)|parenchymal",
    "interstitial": r"interstiti\w+|reticul\w+|honeycomb\w*|coars\w+|crowd\w*|markings?"
    r"|bronchovascular|peri-?bronchial|bronchial wall|bronchiect\w+|airways? disease",
    "emphysema": r"emphysem\w*|copd|obstructive|asthma\w*|bronchospas\w+|air[ -]?trapping"
    r"|\w*lucen(?:t|c)\w*|oligemi\w+",
    "hyperinflation": r"(?:hyper|over)[- ]?(?:inflat|expan|aerat|disten)\w*|barrel|flatten\w*"
    r"|(?:increased|large|high) (?:\S+ )?(?:ap|diameter|volumes?|retrosternal\w*)"
    r"|(?:ap|diameter|volumes?|retrosternal\w*) (?:\S+ ){0,3}(?:increased|large|high)",
    "hypoinflation": r"(?:hypo|under)[- ]?(?:inflat|ventilat|expan|aerat)\w*"
    rf"|{_LOWER} (?:\S+ ){{0,2}}(?:volumes?|inspirat\w+|inflation|expansion|aeration)"
    rf"|(?:volumes?|inspirat\w+|inflation|expansion|aeration) (?:\S+ ){{0,3}}{_LOWER}"
    r"|(?:poorly|incompletely) (?:inflated|expanded|aerated)",
    "scar": r"scar\w*|fibro\w+|distortion|retract\w+|cicatri\w+|silicosis|pneumoconio\w+|asbest\w+"
    r"|tether\w+|traction",
    "pleural": r"blunt\w*|thicken\w*|plaques?|pleural (?:reaction|disease|abnormal\w*|change\w*)"
    r"|(?:apical|pleural|biapical) cap\w*|pleurodesis|fissures?|obscur\w+|effac\w+",
    "calcified": r"\w*calcif\w*|calcinosis|calcium",
    "adenopathy": r"\w*adenopath\w*|lymph|nodes?",
    "mediastinum": rf"{_LARGER} (?:\S+ ){{0,4}}{_HEART}|{_HEART} (?:\S+ ){{0,4}}{_LARGER}"
    r"|shift\w*|deviat\w+|displac\w+|narrow\w+|stenosis|(?:epi|peri)-?cardial(?! silhouette)"
    r"|fat[ -]?pads?|cardiophrenic|lipomatosis|goit\w+|thym(?:us|ic)",
    "enlarged": r"enlarg\w*|prominen\w*|dilat\w+|fullness|disten\w+|hypertroph\w+",
    "aorta": r"tortuo\w+|ecta(?:sia|tic)|uncoil\w+|unfold\w+|unfurl\w*|aneurysm\w*|dissect\w+"
    r"|\w*ather[oe]\w+|arterioscl\w+|aortic disease|(?:right|left)[ -]sided (?:aortic )?arch"
    r"|azygos|coarctation|elongat\w+",
    "diaphragm": r"elevat\w+|eventrat\w+|tent(?:ed|ing)|scallop\w*|lobulat\w+"
    r"|(?:raised|high|higher) (?:\S+ )?(?:hemi-?)?diaphragm",
    "hernia": r"hernia\w*|hiat(?:al|us)|morgagni|bochdalek",
    "fracture": r"fractur\w*|dislocat\w+|subluxat\w+|callus|contusion|h(?:a?emato|a?emorr)\w+"
    r"|\w*trauma\w*|injur\w+|compress\w+|wedg\w+|loss of (?:\w+ )?height|healed|healing|bleed\w*",
    "degenerative_spine": r"degenera\w*|spondyl\w+|\w*ophyt\w+|spur\w*|\w*arthr[io](?!plast)\w+"
    r"|dis[ck] (?:space )?(?:disease|narrow\w+)|dish|hyperostosis|sclero\w+|end[ -]?plates?"
    r"|schmorl\w*|joint disease",
    "curvature": r"\w*scolio\w+|kypho\w*|lordosis|\w*curv(?:ature|ing|ed)|(?:dextro|levo)convex\w*",
    "bone": r"osteop\w+|demineral\w+|osteo(?:dystroph|necro|blast|ly)\w+|deform\w+|cervical ribs?"
    r"|bifid|pectus|ero(?:si|d)\w+|lytic|blastic|congenital|bon[ey] (?:mineral\w+|islands?|loss)"
    r"|(?<!support )hardware|fus(?:ion|ed)|anomal\w+|remodel\w+|expansile|exosto\w+|rotator cuff"
    r"|avascular",
    "foreign_body": r"foreign|bullets?|shrapnel|pellets?|metal\w*|radio-?(?:o?paque|dens\w+)"
    r"|gunshot|needle|barium|piercings?|nipples?|gallstones?|cholelithiasis",
    "abdomen": r"\w*megaly|ascites|ileus|(?:bowel|colon\w*|stomach) (?:\S+ ){0,3}(?:dilat|disten"
    r"|interpos)\w+|obstruct\w+|interposition|gaseous|aerophagia|situs|dextrocardia",
    "surgery": r"\w+ectom(?:y|ies)|(?:stern|thorac)otom(?:y|ies)|\w+plast(?:y|ies)?|cabg|bypass"
    r"|surgery|surgical|clips?|sutur\w+|staple\w*|wires?|cerclage|resect\w+|transplant\w*"
    r"|anastomo\w+|emboli[sz]\w+|radiation|fixation|reconstruct\w+|amputat\w+|thoracentesis|mesh"
    r"|augmentation",
    "chronic_changes": r"senescent|chronic\w*|sequela\w*|residua\w*|asymmetr\w*|irregular\w*"
    r"|abnormal\w*|suspicious|concerning|worrisome|defects?|worse\w*",
    # Devices stand last: any other finding of the same report names the verdict.
    "device_pacemaker": r"pace-?makers?|pacers?|pacing|a?icd|defib\w*|generators?|leads?"
    r"|electrodes?|stimulat\w+|loop recorder",
    "device_tube": r"\w*tub(?:es?|ing)|dobb?-?hoff|ett|ngt|intubat\w+|tracheostom\w+|drains?"
    r"|drainage|pleurx|pig-?tail",
    "device_line": r"\w*catheter\w*|picc|lines?|(?:\w+-?)?port-?(?:a-?)?cath\w*|(?:\w*[ai]-?)?port"
    r"|hickman|broviac|swan|cordis|introducer|tips? (?:\S+ ){0,8}(?:svc|vena|cav\w+|atri\w+)"
    r"|iabp|impella|ecmo|cannula\w*",
    "device_valve": r"valv\w+|tavr|\w*stents?|\w+graft|filters?|coils?|\w*shunt\w*",
    "device_other": r"devices?|implant\w*|apparatus|equipment|monitor\w*|pumps?|screws?|plates?"
    r"|rods?|markers?|brace|support",
}

# Traces of operations that are named no closer. Coders of real reports are divided over them, so
# that alone they leave a report undecided.
DIVIDED: dict[str, str] = {
    "operation": r"post-? ?(?:surg\w+|op\w*)|prosthe\w+|\w{4,}ostom(?:y|ies)",
}
