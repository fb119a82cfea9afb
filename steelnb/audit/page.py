"""What an audit found, and its report: one HTML page that needs no network, findings as JSON, groups as CSV."""

import base64
import csv
import html
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from steelnb import storage
from steelnb.audit import copy_groups, duplicates
from steelnb.audit.checks import Finding
from steelnb.data.dataset import DataError, SteelData
from steelnb.figures.plots import CLASS_COLOURS, DEFECT, overlay

REPORT, FINDINGS, GROUPS = "report.html", "findings.json", "groups.csv"
PICTURES = 24  # of one kind; the rest is in the list
WIDTH, QUALITY = 480, 75  # pixels and JPEG quality of a picture
LONGEST, MOST = 1_800_000, 300  # bytes and findings of a page
KINDS = {
    "refused": "The data set is refused",
    "out of range": "Masks out of range",
    "labels": "Labels that may not be meant",
    "unreadable": "Images that do not decode",
    "copies in another set": "Copies in another set",
    "duplicate across a split": "The same steel on both sides of a split",
    "contradictory labels": "The same steel, labelled differently",
    "classes overlap": "Two classes on the same pixels",
    "off the steel": "Defects where there is no steel",
    "whole image": "Masks of a whole image",
    "tiny mask": "Tiny masks",
    "odd area": "Masks of an odd area",
    "drift": "Sides of a split that differ",
    "duplicate": "The same steel on one side",
    "shared part": "Images that share a part",
    "image across a split": "Images on both sides of the original's split",
    "sizes": "Sizes",
    "file type": "File types",
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #333; max-width: 1500px; margin: 2em auto; padding: 0 1em }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto } table { border-collapse: collapse }
th, td { padding: .2em .8em; text-align: right; border-bottom: 1px solid #ddd } figure { margin: .5em 0 1.5em }
th:first-child, td:first-child { text-align: left } img { max-width: 100%; margin: 0 .3em .3em 0; vertical-align: top }
.error { color: #a00 } .warning { color: #a50 } .note { color: #555 } b { text-transform: capitalize }
"""


@dataclass(frozen=True)
class Audit:
    """What was found in a data set; `data` is None where it was refused.

    described: what was read. findings: errors first. shares: see `audit.drift`. groups: ImageId → group, as
    `SteelData.with_groups` takes it; None where no two images show the same steel.
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
        """Leaves report.html, findings.json and, where there are duplicates, groups.csv in `out`.

        The report holds its pictures; where it is long, report_2.html and so on hold the rest. It comes last: a folder
        without one is unfinished. Returns its path. Raises ValueError for a folder that holds one of these files
        already, and storage.StorageError.
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
        """How many images have a copy, in one line; empty where none has."""
        return copy_groups.headline(self.groups)


def check_free(out: Path) -> None:
    """Raises ValueError for a folder that holds a report, or a table of groups that somebody may have written by hand.
    """
    if held := next((path for name in (REPORT, FINDINGS, GROUPS) if (path := out / name).exists()), None):
        raise ValueError(f"{held} already exists; name another folder, or move this file away")


def _plain(audit: Audit) -> dict:
    shares = [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
              for row in audit.shares.to_dict("records")]
    findings = [{**f._asdict(), "pair": f.pair and f.pair._asdict()} for f in audit.findings]
    return {"data": audit.name, "ok": audit.ok, "read": audit.described, "findings": findings, "shares": shares}


def _pages(audit: Audit) -> dict[str, str]:
    """File name → page, report.html first; none longer than LONGEST bytes or MOST findings."""
    blocks: list[list[str]] = [[]]
    size = count = 0
    for block in _blocks(audit):
        if blocks[-1] and (size + len(block) > LONGEST or count >= MOST):
            blocks.append([])
            size = count = 0
        blocks[-1].append(block)
        size, count = size + len(block), count + 1
    files = [REPORT, *(f"report_{n}.html" for n in range(2, len(blocks) + 1))]
    links = " ".join(f'<a href="{file}">{n}</a>' for n, file in enumerate(files, 1))
    title = f"<title>Audit of {html.escape(audit.name)}</title>"
    head = f'<head><meta charset="utf-8">{title}<style>{STYLE}</style></head>'
    ends = [f"<p>Pages: {links}</p>"] * (len(files) > 1)
    return {file: "\n".join(['<!doctype html>\n<html lang="en">', head, "<body>", *each, *ends, "</body></html>\n"])
            for file, each in zip(files, blocks, strict=True)}


def _blocks(audit: Audit) -> Iterator[str]:
    """The report, piece by piece: what was read, then a piece for each finding."""
    counts = {s: sum(f.severity == s for f in audit.findings) for s in ("error", "warning", "note")}
    summary = ", ".join(f'<span class="{s}">{n} {s}{"s" * (n != 1)}</span>' for s, n in counts.items())
    first = f"<h1>Audit of {html.escape(audit.name)}</h1>"
    first += f"<p><strong>{html.escape(audit.headline)}.</strong></p>" * bool(audit.headline)
    first += f"<p>{summary}</p><h2>What was read</h2><pre>{html.escape(audit.described)}</pre>"
    if audit.groups:
        alone = len(set(audit.groups.values()))
        first += (f"<p>groups.csv keeps what shows the same steel together: {len(audit.groups)} images in {alone} "
                  "groups. <code>data.with_groups(&quot;groups.csv&quot;)</code> splits by it.</p>")
    if len(audit.shares):
        first += "<h2>Shares on both sides of each split</h2>" + "".join(_shares(audit))
    yield first + "<p>Nothing was found.</p>" * (not audit.findings)
    for kind, title in KINDS.items():
        if found := [f for f in audit.findings if f.kind == kind]:
            heading = f"<h2>{title} ({len(found)})</h2>" + f"<p>Pictures: {PICTURES}.</p>" * (len(found) > PICTURES)
            for number, finding in enumerate(found):
                yield heading * (number == 0) + _finding(audit.data, finding, number < PICTURES)


def _finding(data: SteelData | None, finding: Finding, pictures: bool) -> str:
    text = f'<b class="{finding.severity}">{finding.severity}</b>: {html.escape(finding.text)}.'
    if not pictures or data is None:
        return f"<p>{text}</p>"
    try:
        shown = "".join(_img(picture, alt) for picture, alt in _pictures(data, finding))
    except DataError as error:  # a file that has gone or changed since
        shown = f"<p>No picture: {html.escape(str(error))}</p>"
    return f"<figure><figcaption>{text}</figcaption>{shown}</figure>" if shown else f"<p>{text}</p>"


def _pictures(data: SteelData, finding: Finding) -> Iterator[tuple[np.ndarray, str]]:
    """Pictures, uint8 [H, W] or [H, W, 3], of what a finding is about, and what each shows in words."""
    if (pair := finding.pair) is not None:
        labels = finding.kind == "contradictory labels"
        for image_id, symmetry in ((pair.a, duplicates.SYMMETRIES[0]), (pair.b, pair.symmetry)):
            image = np.ascontiguousarray(duplicates.turned(data.image(image_id), symmetry))
            masks = np.ascontiguousarray(duplicates.turned(data.masks(image_id), symmetry))
            way = "" if symmetry == duplicates.SYMMETRIES[0] else f", {symmetry}"
            yield (_labelled(data, image, masks) if labels else image), f"{image_id}{way}{_told(data, masks) * labels}"
    elif finding.kind in ("classes overlap", "off the steel", "whole image", "tiny mask", "odd area"):
        for image_id in finding.images:
            masks = data.masks(image_id)
            yield _labelled(data, data.image(image_id), masks), image_id + _told(data, masks)


def _title(audit: Audit, kind: str) -> str:
    return audit.data.class_name(int(kind)) if audit.data is not None else f"class {kind}"


def _labelled(data: SteelData, image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    several = len(data.classes) > 1
    return overlay(image, masks, [CLASS_COLOURS.get(c, DEFECT) if several else DEFECT for c in data.classes])


def _told(data: SteelData, masks: np.ndarray) -> str:
    shown = [(data.class_name(c), m) for c, m in zip(data.classes, masks, strict=True) if m.any()]
    found = [f"{int(m.sum())} pixels of {name}" for name, m in shown]
    return f", labelled: {', '.join(found) or 'clean'}"


def _img(picture: np.ndarray, alt: str) -> str:
    """A picture within the page, at most WIDTH pixels a side."""
    image, content = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((WIDTH, WIDTH))
    image.save(content, "JPEG", quality=QUALITY)
    text = base64.b64encode(content.getvalue()).decode()
    size = f'width="{image.width}" height="{image.height}"'
    return f'<img src="data:image/jpeg;base64,{text}" {size} alt="{html.escape(alt)}">'


def _shares(audit: Audit) -> Iterator[str]:
    by_row = " By row, as the original split: the share of label rows; clean images have none."
    by_row *= "by row" in set(audit.shares["split"])
    yield (f"<p>By image: the share of images that show a class.{by_row} Difference: 95 % interval of validation less "
           "training; p: Fisher's exact test.</p><table><tr><th>split, class</th><th>training</th><th>validation</th>"
           "<th>difference</th><th>p</th><th>median area, training</th><th>validation</th></tr>")
    for row in audit.shares.to_dict("records"):
        kind = row["class"] if row["class"] == "clean" else _title(audit, row["class"])
        areas = ("–" if math.isnan(row[a]) else f"{row[a]:,.0f} px" for a in ("area_train", "area_validation"))
        cells = [f"{row['split']}, {kind}", f"{row['train']:.1%} of {row['n_train']}",
                 f"{row['validation']:.1%} of {row['n_validation']}",
                 f"{row['low']:+.1%} … {row['high']:+.1%}", f"{row['p']:.2g}", *areas]
        yield "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
    yield "</table>"
