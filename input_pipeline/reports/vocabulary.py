r"""What a chest film may show, by the words that say so.

The patterns meet lower-case text on one line, from which removed words (`___`) are gone. Gaps are
counted, so that time grows with the length of a report and no faster.
"""

_LARGER = r"(?:(?:enlarg|prominen|dilat|widen|full|increas|accentuat|lobulat|bulg)\w*|wide)"
_LOWER = r"(?:low|lower|small|smaller|decreased|reduced|diminished|poor|shallow|suboptimal)"
_HEART = (
    r"(?:mediastin\w+|hil(?:um|a|ar)|silhouette|contours?|arter\w+|vess\w+|vascul\w+|paratracheal"
    r"|heart|cardiac)"
)

_NEAR = r"(?:(?!with\b|and\b|or\b)[^ ,]+ )"

# rule -> what says so, between edges of words. The first rule that is met names the verdict.
FINDINGS: dict[str, str] = {
    "pneumothorax": r"\w*pneumothora\w+|ptx",
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
    "pneumonia": r"\w*pneumoni\w+|pna|infect\w+|inflam\w*|bronchi(?:oli)?tis|aspirat\w+"
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
    rf"|(?:increased|large|high) {_NEAR}?(?:ap|diameter|volumes?|retrosternal\w*)"
    rf"|(?:ap|diameter|volumes?|retrosternal\w*) {_NEAR}{{0,3}}(?:increased|large|high)",
    "hypoinflation": r"(?:hypo|under)[- ]?(?:inflat|ventilat|expan|aerat)\w*"
    rf"|{_LOWER} {_NEAR}{{0,2}}(?:volumes?|inspirat\w+|inflation|expansion|aeration)"
    rf"|(?:volumes?|inspirat\w+|inflation|expansion|aeration) {_NEAR}{{0,3}}{_LOWER}"
    r"|(?:poorly|incompletely) (?:inflated|expanded|aerated)",
    "scar": r"scar\w*|fibro\w+|distortion|retract\w+|cicatri\w+|silicosis|pneumoconio\w+|asbest\w+"
    r"|tether\w+|traction",
    "pleural": r"blunt\w*|thicken\w*|plaques?|pleural (?:reaction|disease|abnormal\w*|change\w*)"
    r"|(?:apical|pleural|biapical) cap\w*|pleurodesis|fissures?|obscur\w+|effac\w+",
    "calcified": r"\w*calcif\w*|calcinosis|calcium",
    "adenopathy": r"\w*adenopath\w*|lymph|nodes?",
    "mediastinum": rf"{_LARGER} {_NEAR}{{0,4}}{_HEART}|{_HEART} {_NEAR}{{0,4}}{_LARGER}"
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
    # Endings of diseases, and what no other rule names.
    "other": r"(?!diagnos|prognos|anastomos|spondyl|\w*arthr|\w*phyt)"
    r"\w++(?:(?<=itis)|(?<=osis)|(?<=oses)|(?<=....oma)"
    r"|(?<=....omas)|(?<=omata)|(?<=cele)|(?<=celes)|(?<=plegia)|(?<=paresis)|(?<=genesis)"
    r"|(?<=plasia)|(?<=plastic))|ards"
    r"|\w+rrhag\w+|paralys\w+|infarct\w*|\w*thromb\w+|\w*embol\w+|syndrome"
    r"|swell\w*|swollen|dehisc\w*|notch\w*|plugg\w*|loculat\w*|pleurisy|white-?out|mal-?position\w*"
    r"|misplac\w*|kink\w*|leak\w*|ruptur\w*|perforat\w*|lacerat\w*"
    r"|malform\w*|arteriovenous|tree-in-bud|crazy[ -]paving|miliary|spiculat\w*|ghon"
    r"|mottl\w*|obliterat\w*|encas\w*|destr(?:oy|uct)\w*|osteo(?!phyt|arthr)\w+|strictur\w*|bulg\w*|vasculitic",
    # "No effusion on the right; moderate on the left."
    "unnamed": r"(?:trace|tiny|small|mild|moderate|severe|large|minimal|some)(?: (?:one|amount))?"
    r" (?:on|in|at) (?:the )?(?:left|right|other|bases?|apex|apices)",
    "not_normal": r"not_normal|unclear|subnormal|non-?normal",
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
    "operation": r"post-? ?(?:surg\w+|op\w*)|prosthe\w+|\w{4,}ostom(?:y|ies)"
}

# Rules whose findings may be of another part, where a report reads films of several.
LIMB_RULES = frozenset(
    "effusion fracture degenerative_spine bone curvature surgery foreign_body calcified"
    " enlarged mediastinum chronic_changes".split()
)
