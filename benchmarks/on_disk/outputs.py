"""What the library writes, for damage.py: weights, checkpoints and all that predict leaves, read as it reads them."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from steelnb.network.unet import UNet
from steelnb.network.weights import Trained, load_network, save_network
from steelnb.prediction.files import predict_files
from steelnb.runs.checkpoints import Checkpoints

REPORTS = ("predictions.json", "SHA256SUMS")  # in another order after a file was made anew; they hold no mask


def network() -> Trained:
    """One of which half of the pixels of noise are defect."""
    torch.manual_seed(0)
    model = UNet(width=2, depth=2).eval()
    with torch.no_grad():
        model.head.bias -= model(torch.rand(1, 1, 108, 108)).median()
    return Trained(model, {"network": model.config, "data": {"classes": [1]}})


def outputs(folder: Path) -> Iterator[tuple[str, bytes, str, Callable[[Path], object]]]:
    """Form by form: what it is, its bytes, its name, and what reads it. folder: for what is read beside it."""
    trained = network()
    save_network(folder / "weights.safetensors", trained.model, trained.metadata)

    def tensors(path: Path) -> list[bytes]:
        return [tensor.numpy().tobytes() for tensor in load_network(path).model.state_dict().values()]

    yield "weights", (folder / "weights.safetensors").read_bytes(), "weights.safetensors", tensors

    kept = Checkpoints(folder / "checkpoints")
    kept.folder.mkdir()
    for step in (1, 2):
        kept.save({"step": step, "model": trained.model.state_dict()}, step)
        kept.wait()

    def newest(name: str) -> Callable[[Path], list]:
        def read(path: Path) -> list:
            whole = (kept.folder / name).read_bytes()
            shutil.copy(path, kept.folder / name)
            told = []
            try:
                state = Checkpoints(kept.folder).load(told.append)
            finally:
                (kept.folder / name).write_bytes(whole)
            if told:
                raise ValueError(told)
            return [state["step"], *(tensor.numpy().tobytes() for tensor in state["model"].values())]

        return read

    last = sorted(kept.folder.glob("*.pt"))[-1]
    for what, path in (("checkpoint", last), ("manifest", kept.folder / "manifest.json")):
        yield what, path.read_bytes(), path.name, newest(path.name)

    rng, given, out = np.random.default_rng(0), folder / "given", folder / "masks"
    given.mkdir()
    Image.fromarray(rng.integers(0, 256, (24, 40), np.uint8)).save(given / "a.png")
    np.save(given / "s.npy", rng.integers(0, 256, (12, 90), np.uint8))
    images = [given / "a.png", given / "s.npy"]
    predict_files(trained, images, out, probabilities=True)
    whole = {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.name != ".lock"}

    def resumed(name: str) -> Callable[[Path], dict]:
        def read(path: Path) -> dict:
            shutil.copy(path, out / name)
            try:
                if failed := predict_files(trained, images, out, probabilities=True, resume=True).failed:
                    raise ValueError(failed)
                return {each: (out / each).read_bytes() for each in whole if each not in REPORTS}
            finally:
                for each, content in whole.items():
                    if not (out / each).exists() or (out / each).read_bytes() != content:
                        (out / each).write_bytes(content)

        return read

    for name, content in whole.items():
        yield name, content, name, resumed(name)
