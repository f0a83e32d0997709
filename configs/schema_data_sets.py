"""What a file of `configs/data_sets`, or a user's own, says of a data set's table."""

import dataclasses
from typing import ClassVar, Literal

Names = str | tuple[str, ...]  # several: the first that the table has


@dataclasses.dataclass(frozen=True)
class Columns:
    """Where the table has each fact; "": nowhere.

    A name without braces is a column. With braces it is a text made of columns, such as
    "{ImageDir}/{ImageID}". It is empty where the column of a film, patient or study in it is.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    image: Names = ""  # the film's path, as far as the table has it; its suffix does not matter
    patient: Names = ""
    study: Names = ""
    split: Names = ""
    view: Names = ""
    sex: Names = ""
    age: Names = ""  # years, or DICOM's form (061Y)
    birth: Names = ""  # a date or a year; with `date` it gives the age where there is none
    date: Names = ""  # 20261231 or 2026-12-31
    time: Names = ""  # 235959, 235959.5 or 23:59:59; four digits are hours and minutes
    findings: Names = ""  # the list of what is positive; "": each finding has a column of its own


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One data set."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    title: str
    labels: str  # a sentence: who or what made the labels
    absence: str  # a sentence: what it means that a finding is not there
    columns: Columns
    uncertainty: str = ""  # a sentence: what -1 means
    caution: str = ""  # a sentence: what else a reader must know, such as the ages of the patients
    films_of: str = ""  # the data set that has the same films or patients
    tables: tuple[str, ...] = ()  # patterns of the published tables' names, in the data's folder
    form: Literal["table", "openi_xml", "file_names"] = "table"
    rows: Literal["one", "any", "majority"] = "one"  # of a film: one; its boxes; its readers
    # Regular expressions, tried on the texts of `columns`: what their groups find, with : between,
    # takes the place of the text
    patterns: Columns = Columns()
    # fact -> its text in the table -> what is meant; other texts stay
    values: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    findings: tuple[str, ...] = ()  # as the table writes them; none: all that it has
    # Whether a finding that is not there is negative or unknown: not in the list, or an empty cell
    absent: Literal["negative", "unknown"] = "unknown"
    separator: str = ""  # of the list; "": no list, one finding; "python": ['a', 'b'] as text
    others: bool = False  # whether the list may hold more than `findings`; else that is an error
    normal: str = ""  # that there is no finding; it counts as one itself only if in `findings`
    devices: tuple[str, ...] = ()  # those of `findings` that are no finding of the body
    unusable: tuple[str, ...] = ()  # entries of the list that say that nothing could be told
    names: dict[str, str] = dataclasses.field(default_factory=dict)  # finding -> common finding
    name: str = ""  # the file's name without .toml
