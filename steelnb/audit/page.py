"""The result of an audit, and its report: HTML pages that need no network, findings as JSON, groups as CSV."""

import base64
import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
import pandas as pd
from PIL import Image

from steelnb import storage
from steelnb.audit import copy_groups, duplicates
from steelnb.audit.checks import Finding
from steelnb.data.dataset import DataError, SteelData
from steelnb.figures.plots import CLASS_COLOURS, DEFECT, overlay

TEMPLATE = Path(__file__).with_suffix(".html")
REPORT, FINDINGS, GROUPS = "report.html", "findings.json", "groups.csv"
PICTURES = 24  # of one kind; other findings are listed without
WIDTH, QUALITY = 480, 75  # largest side in pixels and JPEG quality of a picture
LONGEST, MOST = 1_800_000, 300  # bytes and findings per page
KINDS = {
    "refused": "The data set is refused",
    "out of range": "Masks out of range",
    "labels": "Implausible labels",
    "unreadable": "Images that cannot be decoded",
    "copies in another set": "Copies in another set",
    "duplicate across a split": "The same steel on both sides of a split",
    "contradictory labels": "The same steel, labelled differently",
    "classes overlap": "Two classes on the same pixels",
    "off the steel": "Defects where there is no steel",
    "whole image": "Masks of a whole image",
    "tiny mask": "Tiny masks",
    "odd area": "Masks of an unusual area",
    "drift": "Sides of a split that differ",
    "duplicate": "The same steel on one side",
    "shared part": "Images that share a part",
    "image across a split": "Images on both sides of the original's split",
    "sizes": "Sizes",
    "file type": "File types",
}


@dataclass(frozen=True)
class Audit:
    """The findings about a data set; `data` is None if it was refused.

    described: the data set as text. findings: errors first. shares: see `audit.drift`. groups: ImageId → group, as
    used by `SteelData.with_groups`; None if no two images show the same steel.
    """

    name: str
    described: str
    findings: tuple[Finding, ...]
    shares: pd.DataFrame
    data: SteelData | None = None
    groups: dict[str, str] | None = None

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return all(finding.severity != "error" for finding in self.findings)

    def write(self, out: str | Path) -> Path:
        """Writes report.html, findings.json and, if there are duplicates, groups.csv into `out`; returns the report.

        The report includes its pictures; a long one continues in report_2.html and so on. report.html is written last:
        a folder without it is incomplete. Raises ValueError if one of these files exists already, and
        storage.StorageError.
        """
        out = Path(out)
        check_free(out)
        pages = _pages(self)
        out.mkdir(parents=True, exist_ok=True)
        if self.groups:
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([("ImageId", "group"), *self.groups.items()])
            storage.write_file(out / GROUPS, text.getvalue().encode())
        storage.write_file(out / FINDINGS, json.dumps(_plain(self), indent=1, ensure_ascii=False).encode())
        for name, content in reversed(pages.items()):
            storage.write_file(out / name, content.encode())
        return out / REPORT

    @property
    def headline(self) -> str:
        """The number of images with a copy, in one line; empty if there are none."""
        return copy_groups.headline(self.groups)


def check_free(out: Path) -> None:
    """Raises ValueError for a folder with a report, or with a table of groups, which may be hand-written."""
    if held := next((path for name in (REPORT, FINDINGS, GROUPS) if (path := out / name).exists()), None):
        raise ValueError(f"{held} already exists; choose another folder, or move this file away")


def _plain(audit: Audit) -> dict:
    shares = [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
              for row in audit.shares.to_dict("records")]
    findings = [{**f._asdict(), "pair": f.pair and f.pair._asdict()} for f in audit.findings]
    return {"data": audit.name, "ok": audit.ok, "read": audit.described, "findings": findings, "shares": shares}


def _pages(audit: Audit) -> dict[str, str]:
    """File name → page, report.html first; none longer than LONGEST bytes or MOST findings."""
    page = _template()
    blocks: list[list[str]] = [[]]
    size = count = 0
    for block in _blocks(audit, page):
        if blocks[-1] and (size + len(block) > LONGEST or count >= MOST):
            blocks.append([])
            size = count = 0
        blocks[-1].append(block)
        size, count = size + len(block), count + 1
    files = [REPORT, *(f"report_{n}.html" for n in range(2, len(blocks) + 1))]
    return {file: page.page(audit.name, each, files) for file, each in zip(files, blocks, strict=True)}


def _template():
    """The macros of page.html, whose values are escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).module


def _blocks(audit: Audit, page) -> Iterator[str]:
    """The report, piece by piece: what was read, then a piece for each finding. page: macros, see `_template`."""
    counts = {s: sum(f.severity == s for f in audit.findings) for s in ("error", "warning", "note")}
    rows = audit.shares.to_dict("records")
    yield page.overview(audit, counts, any(row["split"] == "by row" for row in rows), [_cells(audit, r) for r in rows])
    for kind, title in KINDS.items():
        found = [f for f in audit.findings if f.kind == kind]
        for number, finding in enumerate(found):
            heading = page.heading(title, len(found), PICTURES) if number == 0 else ""
            pictures, error = [], ""
            if audit.data is not None and number < PICTURES:
                try:
                    pictures = [_jpeg(picture, alt) for picture, alt in _pictures(audit.data, finding)]
                except DataError as problem:  # a file that has gone or changed since
                    error = str(problem)
            yield heading + page.finding(finding, pictures, error)


def _pictures(data: SteelData, finding: Finding) -> Iterator[tuple[np.ndarray, str]]:
    """Pictures, uint8 [H, W] or [H, W, 3], of the images of a finding, each with a description."""
    if (pair := finding.pair) is not None:
        labels = finding.kind == "contradictory labels"
        for image_id, symmetry in ((pair.a, duplicates.SYMMETRIES[0]), (pair.b, pair.symmetry)):
            image = np.ascontiguousarray(duplicates.turned(data.image(image_id), symmetry))
            masks = np.ascontiguousarray(duplicates.turned(data.masks(image_id), symmetry))
            way = "" if symmetry == duplicates.SYMMETRIES[0] else f", {symmetry}"
            alt = f"{image_id}{way}{_labels(data, masks) * labels}"
            yield (_labelled(data, image, masks) if labels else image), alt
    elif finding.kind in ("classes overlap", "off the steel", "whole image", "tiny mask", "odd area"):
        for image_id in finding.images:
            masks = data.masks(image_id)
            yield _labelled(data, data.image(image_id), masks), image_id + _labels(data, masks)


def _title(audit: Audit, kind: str) -> str:
    return audit.data.class_name(int(kind)) if audit.data is not None else f"class {kind}"


def _labelled(data: SteelData, image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    several = len(data.classes) > 1
    return overlay(image, masks, [CLASS_COLOURS.get(c, DEFECT) if several else DEFECT for c in data.classes])


def _labels(data: SteelData, masks: np.ndarray) -> str:
    shown = [(data.class_name(c), m) for c, m in zip(data.classes, masks, strict=True) if m.any()]
    found = [f"{int(m.sum())} pixels of {name}" for name, m in shown]
    return f", labelled: {', '.join(found) or 'clean'}"


class Picture(NamedTuple):
    """A JPEG, base64, with its size in pixels and a description."""

    content: str
    width: int
    height: int
    alt: str


def _jpeg(picture: np.ndarray, alt: str) -> Picture:
    """A picture of at most WIDTH pixels per side."""
    image, content = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((WIDTH, WIDTH))
    image.save(content, "JPEG", quality=QUALITY)
    return Picture(base64.b64encode(content.getvalue()).decode(), image.width, image.height, alt)


def _cells(audit: Audit, row: dict) -> list[str]:
    """A row of `audit.drift` as text."""
    kind = row["class"] if row["class"] == "clean" else _title(audit, row["class"])
    areas = ("–" if math.isnan(row[a]) else f"{row[a]:,.0f} px" for a in ("area_train", "area_validation"))
    return [f"{row['split']}, {kind}", f"{row['train']:.1%} of {row['n_train']}",
            f"{row['validation']:.1%} of {row['n_validation']}",
            f"{row['low']:+.1%} … {row['high']:+.1%}", f"{row['p']:.2g}", *areas]
