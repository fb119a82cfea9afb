"""Shared by the tests: a small set of synthetic steel, a recipe of seconds, caches in a temporary folder."""

import contextlib

import pretended_gpu
import pytest
import torch

from steelnb.data import dataset, synthetic
from steelnb.training.recipes import SMOKE

collect_ignore = ["browser"]  # `make test-browser`: not every run of the tests has a Chromium, and minutes, to spare


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Caches and runs go to a folder of the test's own; the reader's settings play no part."""
    monkeypatch.setenv("STEELNB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("STEELNB_DATA", raising=False)
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def gpu(request):
    """Tests marked `gpu` run on the CUDA device that there is, without one on a pretended T4."""
    wanted = request.node.get_closest_marker("gpu")
    with pretended_gpu.pretended() if wanted and not torch.cuda.is_available() else contextlib.nullcontext():
        yield


@pytest.fixture(params=["as it is", pytest.param("gpu", marks=pytest.mark.gpu)])
def anywhere(request):
    """For tests that were written on a CPU and have to hold on a machine with a GPU."""


@pytest.fixture(scope="session")
def steel_folder(tmp_path_factory):
    """Twelve synthetic images of 64×200 in Severstal's layout."""
    return synthetic.write_dataset(
        tmp_path_factory.mktemp("steel") / "set", 12, seed=3, shape=(64, 200), progress=False
    )


@pytest.fixture(scope="session")
def steel(steel_folder):
    return dataset.read_dataset(steel_folder)


@pytest.fixture(scope="session")
def tiny():
    """The smoke recipe with a network small enough for a test."""
    return SMOKE.changed(name="tiny", model=dict(width=2, depth=2), crop=(32, 64), batch=4, epochs=2, epoch_samples=12)
