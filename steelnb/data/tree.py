"""The files below a folder, and what their paths say: image files by name, parts of a split."""

import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from steelnb.data.images import SUFFIXES, DataError, names

MASKS = ("masks", "mask", "labels", "label", "annotations", "annotation", "ground_truth", "gt", "segmentationclass")
PARTS = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
         "test": "test", "testing": "test"}


@dataclass(frozen=True)
class Tree:
    """Every file below `folder`, at any depth, sorted, without hidden files and those that macOS adds."""

    folder: Path
    files: tuple[Path, ...] = field(repr=False)

    @cached_property
    def pictures(self) -> tuple[Path, ...]:
        """The image files, by their suffix."""
        return self.with_suffix(*SUFFIXES)

    def with_suffix(self, *suffixes: str) -> tuple[Path, ...]:
        """The files of these suffixes, given in lower case."""
        return tuple(p for p in self.files if p.suffix.lower() in suffixes)

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        index: dict[str, list[Path]] = {}
        for path in self.pictures:
            index.setdefault(path.name, []).append(path)
        return index

    def locate(self, name: str, labels: Path, where: str) -> Path | None:
        """The image file with a name from a label file; None if there is none, DataError if there are several.

        First the path relative to the label file and to the folder; then the file whose path agrees longest from its
        end, of several the one in the same part of a split.
        """
        wanted = PurePosixPath(name.replace("\\", "/"))
        same = self._by_name.get(wanted.name, [])
        for base in (labels.parent, self.folder):
            if (direct := Path(os.path.normpath(base.joinpath(*wanted.parts)))) in same:
                return direct
        for length in range(len(wanted.parts), 0, -1):
            if found := [p for p in same if p.parts[-length:] == wanted.parts[-length:]]:
                found = [p for p in found if p.parent.name.lower() not in MASKS] or found
                if len(found) > 1:
                    found = [p for p in found if part_of(p, self.folder) == part_of(labels, self.folder)] or found
                if len(found) > 1:
                    raise DataError(f"{where}: {name} may be {names(map(self.name, found))}; use its path relative to "
                                    "the folder")
                return found[0]
        return None

    def name(self, path: Path) -> str:
        """A file's path below the folder, for a message."""
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else str(path)


def walk(folder: Path) -> Tree:
    """The tree of `folder`. Links to folders are followed, each folder once. DataError names an unreadable one."""
    files, seen = [], set()

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: {error.strerror or error}; make it readable") from error

    for place, folders, inside in os.walk(folder, followlinks=True, onerror=refuse):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX"
                            and (real := os.path.realpath(os.path.join(place, f))) not in seen
                            and not seen.add(real))
        files += [Path(place, f) for f in sorted(inside) if not f.startswith(".")]
    return Tree(folder, tuple(files))


def part_of(path: Path, below: Path) -> str | None:
    """The part of a split named by a file, or by a folder between `below` and it; None if there is no such name.

    A label file may have it as one word of its name; of a folder it is the whole name, except for digits at the end
    (``train2017``).
    """
    words = [] if path.suffix.lower() in SUFFIXES else re.findall("[a-z]+", path.stem.lower())
    if part := next((PARTS[word] for word in words if word in PARTS), None):
        return part
    folders = path.relative_to(below).parts[:-1] if path.is_relative_to(below) else ()
    return next((PARTS[w] for w in (f.lower().rstrip("0123456789") for f in folders) if w in PARTS), None)
