"""A cache of the decoded images of a data set, in one file."""

import hashlib
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from steelnb import runtime, storage
from steelnb.data.dataset import SteelData
from steelnb.data.images import DataError


class ImageCache:
    """Every image of a data set as gray uint8 in one memory-mapped file, decoded once.

    The file's name is made from the data's fingerprint and from path, length and time of its image files. It is written
    under a temporary name first, so an interrupted or changed data set is never mistaken for a finished one. It ends
    with the SHA-256 of its pixels (`digest`, hex), which is checked whenever it is opened; a damaged file is made
    again. A pickled cache, for a data loader's worker, contains the file's path, not the pixels. An image file that
    cannot be decoded raises images.DataError naming it.
    """

    def __init__(self, data: SteelData, folder: Path | None = None, progress: bool = False) -> None:
        sizes = data.images["height"].to_numpy() * data.images["width"].to_numpy()
        self._starts = dict(zip(data.images["ImageId"], (np.cumsum(sizes) - sizes).tolist(), strict=True))
        self._shapes = {row.ImageId: (row.height, row.width) for row in data.images.itertuples()}
        # The fingerprint covers ids, sizes and labels; path, length and time of the files stand for their pixels.
        stamps = [(str(path), (s := path.stat()).st_size, s.st_mtime_ns) for path in data.images["path"]]
        name = hashlib.sha256(f"{data.fingerprint()} {stamps}".encode()).hexdigest()[:16]
        self.path = (folder or runtime.cache_folder()) / f"{name}.uint8"
        self._size = int(sizes.sum())
        if not self._whole():
            self.pixels = None  # closes a damaged file: Windows cannot replace a mapped file
            self._write(data, progress)
        self._map()

    def _map(self) -> None:
        pixels = np.memmap(self.path, np.uint8, mode="r")
        self.pixels = pixels[: self._size]  # of all images, one after another
        self.digest = pixels[self._size :].tobytes().hex()

    def _whole(self) -> bool:
        if not self.path.exists() or self.path.stat().st_size != self._size + hashlib.sha256().digest_size:
            return False
        self._map()
        return hashlib.sha256(self.pixels).hexdigest() == self.digest

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "pixels"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._map()

    def __getitem__(self, image_id: str) -> np.ndarray:
        """uint8 [H, W]; only the pages used are read from disk."""
        height, width = self.shape(image_id)
        start = self.start(image_id)
        return self.pixels[start : start + height * width].reshape(height, width)

    def shape(self, image_id: str) -> tuple[int, int]:
        """Height and width in pixels."""
        return self._shapes[image_id]

    def start(self, image_id: str) -> int:
        """Index of its first pixel in `pixels`."""
        return self._starts[image_id]

    def _write(self, data: SteelData, progress: bool) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished, digest = storage.temporary_name(self.path), hashlib.sha256()
        try:
            with unfinished.open("xb") as file:
                for image_id in tqdm(data.images["ImageId"], desc="decode", unit="image", disable=not progress):
                    pixels = data.image(image_id).tobytes()
                    digest.update(pixels)
                    file.write(pixels)
                file.write(digest.digest())
            storage.replace_file(unfinished, self.path)
        except OSError as error:
            raise DataError(f"{self.path}: cannot write the cache of images: {error.strerror or error}. "
                            "Make room there, or set STEELNB_HOME to a folder on another disk") from error
        finally:
            unfinished.unlink(missing_ok=True)
