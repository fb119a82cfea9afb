"""The tables of a data set (train.csv, groups.csv and others), checked line by line."""

from collections.abc import Sequence
from csv import Error, reader
from io import StringIO
from pathlib import Path, PureWindowsPath

import pandas as pd

from steelnb.data.images import SYNTHETIC_MARK, DataError, long_cells, nfc

LABEL_COLUMNS = ("ImageId", "ClassId", "EncodedPixels")
FORMS = {"now": LABEL_COLUMNS, "2019": ("ImageId_ClassId", "EncodedPixels")}
SIZE = ("height", "width")  # our own columns, for sets with images of several sizes
SEVERSTAL_CLASSES = (1, 2, 3, 4)


def labels(csv: Path, classes: Sequence[int] = SEVERSTAL_CLASSES) -> tuple[pd.DataFrame, str]:
    """The label rows (line, ImageId, ClassId, EncodedPixels) of a train.csv, and its form, a key of `FORMS`.

    ClassId is int, 0 in the row of a clean image; EncodedPixels is text, not yet decoded. Columns height and width (of
    the labelled image) are kept as int if the file has them. Raises DataError naming the line.
    """
    known = ", ".join(map(str, classes))
    try:
        text = csv.read_text("utf-8-sig")
        if "\0" in text:  # some parsers end a field there
            raise DataError(f"{csv}, line {text[: text.index(chr(0))].count(chr(10)) + 1}: a NUL byte; copy it again")
        with long_cells():
            _check_fields(csv, *text.split("\n"))
        table = pd.read_csv(StringIO(text), dtype=str, na_filter=False, skip_blank_lines=False, index_col=False)
    except DataError:
        raise
    except (ValueError, OSError) as error:  # pandas' parser errors and undecodable text are ValueErrors
        raise DataError(f"{csv}: not a readable table ({str(error).strip()}); copy the file again") from error
    table = table.rename(columns=str.strip).assign(line=range(2, len(table) + 2))
    form = next((f for f, columns in FORMS.items() if {*columns} <= {*table.columns}), None)
    header = [name.strip(' "') for name in text.split("\n", 1)[0].split(",")]  # pandas renames duplicates
    if form is None or not table.columns.is_unique or any(header.count(name) > 1 for name in FORMS[form]):
        raise DataError(f"{csv}, line 1: columns {', '.join(header)}; expected "
                        f"{' or '.join(','.join(c) for c in FORMS.values())}")
    stated = [name for name in SIZE if {*SIZE} <= {*table.columns}]
    table = table[["line", *FORMS[form], *stated]].apply(lambda c: c if c.name == "line" else c.str.strip())
    table = table[(table[list(FORMS[form])] != "").any(axis=1)].copy()  # without blank lines
    if table.empty and not (csv.parent / SYNTHETIC_MARK).exists():  # a few synthetic images may all be clean
        raise DataError(f"{csv}: no rows below the header, so no defect is labelled; copy the file again")
    if form == "2019":
        table[["ImageId", "ClassId"]] = table["ImageId_ClassId"].str.extract(r"^(.*)_([^_]*)$", expand=True).fillna("")

    def refuse(bad: pd.Series, problem: str) -> None:
        if bad.any():
            row = table[bad].iloc[0]
            raise DataError(f"{csv}, line {row['line']}: " + problem.format(**row))

    if form == "2019":
        refuse(table["ImageId"] == "", "ImageId_ClassId {ImageId_ClassId!r} is not NAME_CLASS, such as a.jpg_1")
    refuse(table["ImageId"].map(lambda i: PureWindowsPath(i).name != i or i in ("", ".", "..") or "\0" in i),
           "ImageId {ImageId!r} is not a plain file name; it must be a file of train_images/")
    table["ImageId"] = table["ImageId"].map(nfc)
    clean = (table["ClassId"] == "") & (table["EncodedPixels"] == "") & (form == "now")  # the row of a clean image
    refuse(~clean & ~table["ClassId"].str.fullmatch(r"[0-9]{1,9}(\.0+)?"),
           f"class id {{ClassId!r}} is not a whole number; use one of {known}")
    table["ClassId"] = table["ClassId"].where(~clean, "0").str.replace(r"\.0+$", "", regex=True).astype(int)
    refuse(~clean & ~table["ClassId"].isin(classes), f"unknown class id {{ClassId}}; the classes are {known}")
    for name in stated:
        refuse(~table[name].str.fullmatch("[0-9]{1,9}"), f"{name} {{{name}!r}} is not a whole number of pixels")
        table[name] = table[name].astype(int)
    refuse(table.duplicated(["ImageId", "ClassId"]),
           "a second row for image {ImageId}, class {ClassId}; keep one row with the runs of both")
    return table[["line", *LABEL_COLUMNS, *stated]], form


def read_groups(csv: Path) -> dict[str, str]:
    """ImageId → group, from a CSV with columns ImageId,group. Raises DataError naming the line."""
    return _pairs(csv, ("ImageId", "group"), "image {} is in two groups")


def read_parts(csv: Path) -> dict[str, str]:
    """ImageId → part of the set's own split, from a CSV with columns ImageId,part. Raises DataError naming the line."""
    return _pairs(csv, ("ImageId", "part"), "image {} is in two parts")


def read_class_names(csv: Path) -> dict[int, str]:
    """Class id → name (may be empty), from a CSV with columns ClassId,name. Raises DataError naming the file."""
    found = _pairs(csv, ("ClassId", "name"), "class {} has two names")
    if not found or any(not (i.isascii() and i.isdigit() and 0 < int(i) < 10**9) for i in found):
        raise DataError(f"{csv}: a ClassId must be a whole number from 1 on; write one row per class")
    return {int(i): name for i, name in sorted(found.items(), key=lambda item: int(item[0]))}


def _pairs(csv: Path, columns: tuple[str, str], twice: str) -> dict[str, str]:
    """The rows of a CSV with two columns. twice: message for a key with two different values."""
    try:
        lines = list(reader(StringIO(csv.read_text("utf-8-sig"))))
    except FileNotFoundError as error:
        raise DataError(f"{csv}: no such file") from error
    except (ValueError, OSError, Error) as error:
        raise DataError(f"{csv}: not a readable table ({error}); write it again") from error
    header = [name.strip() for name in lines[0]] if lines else []
    if header != [*columns]:
        raise DataError(f"{csv}, line 1: columns {', '.join(header) or 'none'}; expected {','.join(columns)}")
    found: dict[str, str] = {}
    for number, line in enumerate(lines[1:], 2):
        fields = [field.strip() for field in line]
        if len(fields) not in (0, 2):
            raise DataError(f"{csv}, line {number}: {len(fields)} fields, the header has 2")
        if fields and found.setdefault(nfc(fields[0]), fields[1]) != fields[1]:
            raise DataError(f"{csv}, line {number}: {twice.format(fields[0])}; keep one")
    return found


def _check_fields(csv: Path, header: str, *lines: str) -> None:
    """Refuses lines that pandas would silently pad or cut: a truncated label would become a clean image."""
    wanted = header.count(",")
    for number, line in enumerate(lines, 2):
        found = len(next(reader([line]), ())) - 1 if '"' in line else line.count(",")
        if line.strip() and found != wanted:
            raise DataError(f"{csv}, line {number}: {found + 1} fields, the header has {wanted + 1}; copy it again")
