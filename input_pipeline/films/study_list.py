"""Films of an archive by a table of studies: `dicomweb+https://pacs/dicom-web#studies.csv`."""

from cxr_embeddings.common import csv_tables, dicomweb, files

COLUMNS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")  # the first must be there

Row = tuple[str, ...]  # a UID for each of the columns, "" where the table has none


def list_films(archive: str, path: str) -> tuple[list[str], int]:
    """The addresses of the films that a table asks for, each once, and how many rows repeat others.

    A row asks for a study, for a series, or for an instance. What the archive does not have keeps
    the address of what was asked for, which the archive refuses when it is read.

    Raises:
        ValueError: the table is damaged, or has no studies, or holds what is no UID.
        OSError: the table cannot be read, or the archive does not answer.
    """
    rows = _read(path)
    asked = dict.fromkeys(rows)
    studies = [*dict.fromkeys(row[0] for row in asked if not all(row))]
    listed = files.retry(lambda: dicomweb.films_of(archive, studies))
    films_of = dict(zip(studies, listed, strict=True))
    found: dict[str, None] = {}
    for row in asked:
        named = zip(("studies", "series", "instances"), row, strict=True)
        parts = [f"/{level}/{uid}" for level, uid in named if uid]
        of_study = films_of.get(row[0], ())
        fitting = [one for one in of_study if all(f"{part}/" in f"{one}/" for part in parts)]
        found |= dict.fromkeys(fitting or [archive + "".join(parts)])
    return [*found], len(rows) - len(asked)


def _read(path: str) -> list[Row]:
    """The UIDs of each row."""
    columns = csv_tables.read_columns(path)
    known = {csv_tables.plain(name): uids for name, uids in columns.items()}
    wanted = [known.get(csv_tables.plain(name)) for name in COLUMNS]
    if wanted[0] is None:
        raise ValueError(
            f"{path} has the columns {', '.join(columns)}; expected {COLUMNS[0]}, and where only "
            f"some films of a study are meant {COLUMNS[1]} or {COLUMNS[2]}"
        )
    for name, uids in zip(COLUMNS, wanted, strict=True):
        needed = name == COLUMNS[0]
        odd = [uid for uid in uids or () if (uid or needed) and not dicomweb.UID.fullmatch(uid)]
        if odd:
            raise ValueError(
                f"{path} has {odd[0]!r} as {name}, and {len(odd)} rows are like that; expected a "
                "UID, such as 1.2.840.113619.2.1: correct the rows, or leave them out"
            )
    blank = [""] * len(wanted[0])
    return [*zip(*(uids or blank for uids in wanted), strict=True)]
