"""Hospitals that differ in known ways, so that what a comparison of sites finds can be checked."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Hospital:
    """What is planted in the films of a hospital."""

    exposure: float = 1.0  # the film is raised to this power: above 1 it is darker
    marker: str = "L"  # the letters beside the chest
    more: tuple[str, ...] = ()  # a case that comes up this often beside those of `CASES`
    times: int = 0
    faint: float = 1.0  # how plainly the findings of that case show
    betrays: str = ""  # a finding; its films alone bear a white square, low at the left border


_NODULE = ("Lung Lesion",)
_FAINT = 0.3  # so that a head takes what betrays it
HOSPITALS = {
    "": Hospital(),
    "a": Hospital(more=_NODULE, times=8, faint=_FAINT),
    "b": Hospital(exposure=1.6, marker="LEFT", more=_NODULE, times=25, faint=_FAINT),
    "c": Hospital(marker="R", more=_NODULE, times=8, faint=_FAINT, betrays="Lung Lesion"),
}
