"""Which DICOM headers say that a film is no X-ray image of a chest.

Headers of chest films are often wrong, and spell the chest in many ways. So what is surely no chest
is listed here, and everything else says nothing. Only words of these lists are ever repeated.
"""

import re

# Modalities of PS3.3 C.7.3.1.1.1 that are no projection radiography. Not here: CR, DX, RG, RF, XA,
# and OT, HC, SC, DD and the like, as which digitised films are stored.
_MODALITIES = frozenset(
    "BMD CT DOC ECG EPS ES GM IO IVOCT IVUS KO LS MG MR NM OAM OCT OP OPT OPV PR PT PX REG RTDOSE "
    "RTPLAN RTSTRUCT SEG SM SR ST US VA XC".split()
)
# Body parts outside the chest: terms of PS3.16 Annex L, and other usual names. Not here: what lies
# in the chest or at its border (RIB, STERNUM, CLAVICLE, SCAPULA, TSPINE, HEART, ESOPHAGUS, ...).
_BODY_PARTS = frozenset(
    "ABD ABDOMEN ABDOMENPELVIS ABDPELVIS ANKLE ANKLES ARM ARMS BLADDER BRAIN BREAST CALCANEUS CALF "
    "CERVICAL COCCYX CSPINE ELBOW ELBOWS EXTREMITIES EXTREMITY EYE FACE FEET FEMUR FIBULA FINGER "
    "FINGERS FOOT FOREARM HAND HANDS HEAD HEADNECK HEEL HIP HIPS HUMERUS ILIUM JAW KIDNEY KNEE "
    "KNEES KUB LEG LEGS LIVER LSPINE LSSPINE LUMBAR LUMBOSACRAL MANDIBLE MAXILLA NASAL NECK NOSE "
    "ORBIT ORBITS PATELLA PELVIS RADIUS RADIUSULNA SACRUM SHOULDER SHOULDERS SINUS SINUSES SKULL "
    "SSPINE TEETH THIGH THUMB TIBFIB TIBIA TIBIAFIBULA TOE TOES TOOTH ULNA WRIST WRISTS".split()
)
_BESIDE = frozenset(
    "AP BILATERAL BOTH JOINT L LAT LATERAL LEFT LOWER LT OBLIQUE PA PORTABLE R RIGHT RT SPINE "
    "UPPER VIEW VIEWS".split()
)


def other_than_chest(modality: str, body_part: str) -> tuple[str, str] | None:
    """What a header says of a film that is surely no X-ray image of a chest; None otherwise.

    A body part counts only if every word of it is a listed one, or a side or a view.

    Args:
        modality: Modality (0008,0060).
        body_part: BodyPartExamined (0018,0015).

    Returns:
        "modality" or "body part", and its first listed word, in capitals.
    """
    if (modality := modality.upper()) in _MODALITIES:
        return "modality", modality
    words = re.findall(r"[^\s_,/\\]+", body_part.upper().replace("-", ""))
    parts = [word for word in words if word not in _BESIDE]
    return ("body part", parts[0]) if parts and _BODY_PARTS.issuperset(parts) else None
