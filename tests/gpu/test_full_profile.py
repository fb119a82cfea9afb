"""The full profile of every notebook runs on a GPU's path, and fits into a T4's memory."""

import re

import pretended_gpu
import pytest
import torch
from full_profile import TEXTS, Batch, Noted, cut_short, execute, multiply_adds, needs_a_gpu, peak

from steelnb.network import kinds
from steelnb.network.tiles import DEFAULT_TILE
from steelnb.network.unet import UNet
from steelnb.training.recipes import RECIPES

GIB = 2**30
LIMIT = 13 * GIB  # of a T4's 14.7: the rest is for CUDA itself, cuDNN, and gaps between blocks
FULL = [name for name, text in TEXTS.items() if needs_a_gpu(text)]
NOTED: dict[str, Noted] = {}
TERA = 1e12
RATES = {torch.float16: 8 * TERA, torch.float32: 3 * TERA}  # planned for a T4, whose peaks are 65 and 8.1
PLANNED = re.compile(r"on a T4 (\d+) minutes planned: ([\d.]+) PFLOP in (half|single) precision at (\d) TFLOP/s")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One folder for all notebooks, as a reader has it: they share data, and 10 may find the run of 09."""
    return tmp_path_factory.mktemp("full")


def noted(name, place, monkeypatch):
    """What a notebook's full profile gives to its networks; it is run the first time."""
    if name not in NOTED:
        monkeypatch.setenv("STEELNB_HOME", str(place))
        monkeypatch.setenv("STEELNB_PROFILE", "full")
        monkeypatch.delenv("STEELNB_RUN", raising=False)
        monkeypatch.chdir(place)
        with pretended_gpu.pretended(), cut_short(found := Noted()):
            execute(name)
        NOTED[name] = found
    return NOTED[name]


@pytest.mark.filterwarnings("ignore")  # means of nothing, figures of three points
@pytest.mark.parametrize("name", FULL)
def test_the_full_profile_runs(name, place, monkeypatch):
    assert noted(name, place, monkeypatch).batches, "no network has been on the GPU"


def test_it_is_the_notebooks_with_a_gpu_in_their_header_that_need_one():
    marked = [name for name, text in TEXTS.items() if "accelerator: GPU" in text]
    assert marked == FULL


def largest(batches):
    """Of the batches with one network in one precision, those that no other one holds."""
    found = {}
    for batch in batches:
        kind = batch._replace(shape=())
        area = torch.Size(batch.shape).numel()
        if kind not in found or area > torch.Size(found[kind].shape).numel():
            found[kind] = batch
    return list(found.values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FULL)
def test_every_batch_of_the_full_profile_fits_a_t4(name, place, monkeypatch):
    for batch in largest(noted(name, place, monkeypatch).batches):
        assert peak(batch) < LIMIT, f"{batch} takes {peak(batch) / GIB:.1f} GiB"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in FULL if "loss_trials" in TEXTS[name]])
def test_the_full_profile_takes_a_quarter_of_an_hour_and_its_card_says_so(name, place, monkeypatch):
    """By counting: operations over a rate. No T4 has measured it yet.

    Roughly: 07 trains each loss again for as many steps as fit into the time of the cheapest, which it measures.
    """
    work = noted(name, place, monkeypatch).work
    minutes = sum(count / RATES[precision] for precision, count in work.items()) / 60
    assert minutes <= 15
    said = PLANNED.search(" ".join(TEXTS[name].replace("# ", "").split()))
    assert said, f"its card does not say: on a T4 {minutes:.0f} minutes planned, of {dict(work)}"
    most = max(work, key=lambda precision: work[precision] / RATES[precision])
    assert said[3] == {torch.float16: "half", torch.float32: "single"}[most]
    assert float(said[4]) == RATES[most] / TERA
    assert float(said[2]) == pytest.approx(work[most] / 1e15, rel=0.3 if "affordable" in TEXTS[name] else 0.05)
    assert int(said[1]) == pytest.approx(minutes, abs=3 if "affordable" in TEXTS[name] else 1)


@pytest.mark.parametrize("precision", [torch.float16, torch.float32], ids=["T4", "P100"])
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_fits_a_t4(name, precision):
    recipe = RECIPES[name]
    network = tuple(recipe.model.items())
    if recipe.geometry == "original":
        sides = whole = (430, 1780)
    else:
        sides = [kinds.training_grid(recipe.model).span(0, side)[1] for side in recipe.crop]
        whole = [kinds.build(recipe.model).grid.span(0, side)[1] for side in DEFAULT_TILE]
    trained = peak(Batch(network, (recipe.batch, 1, *sides), precision, True), recipe.loss)
    scored = peak(Batch(network, (1, 1, *whole), precision, False))
    assert max(trained, scored) < LIMIT


def test_work_is_counted_with_what_was_cut_away():
    """A trial of one step stands for one of forty: 41 times forward, 40 back, 5 scores."""
    from steelnb import losses
    from steelnb.training import loss_trials

    steel = loss_trials.Crops(torch.zeros(8, 1, 44, 44, dtype=torch.uint8), torch.ones(8, 1, 4, 4, dtype=torch.bool))
    with pretended_gpu.pretended(), cut_short(found := Noted()):
        tables = loss_trials.trials({"bce": losses.bce_loss}, steel, steel, [4, 5, 6], steps=40, every=10, batch=2)
    ((network, _, precision, _), *_) = found.batches
    image = 2 * multiply_adds(network, (44, 44))
    assert dict(found.work) == {precision: pytest.approx(3 * image * (2 * 41 + 2 * 2 * 40 + 8 * 5))}
    assert list(tables["step"]) == 3 * [0, 10, 20, 30, 40]


def test_memory_counted_from_shapes_is_that_of_real_tensors():
    """On a network whose weights and feature maps can be counted by hand."""
    network = (("width", 4), ("depth", 1), ("norm", "none"))
    weights = sum(weight.numel() for weight in UNet(**dict(network)).parameters())
    # Without gradients two maps live at once: the widest moment is the first decoder's input of 8 channels, 40×40,
    # beside its halves of 4 each, and the image.
    maps = 8 * 40 * 40 + 2 * 4 * 40 * 40 + 1 * 52 * 52
    counted = peak(Batch(network, (1, 1, 52, 52), torch.float32, False))
    assert 4 * (weights + maps) <= counted < 4 * (weights + maps) * 1.6
    learns = peak(Batch(network, (1, 1, 52, 52), torch.float32, True))
    assert learns > counted + 4 * 3 * weights  # gradients and moments


def test_a_network_too_large_is_seen():
    """Notebook 05 had this batch, and would have ended in OutOfMemory."""
    network = (("width", 64), ("depth", 4), ("norm", "encoder"))
    assert peak(Batch(network, (8, 1, 444, 1788), torch.float32, True)) > LIMIT
