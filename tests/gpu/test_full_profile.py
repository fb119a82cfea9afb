"""The full profile of every notebook runs on a GPU's path, and fits into a T4's memory."""

import re

import pretended_gpu
import pytest
import torch
from full_profile import (
    RATES,
    TERA,
    TEXTS,
    WORDS,
    Batch,
    Noted,
    cut_short,
    execute,
    multiply_adds,
    needs_a_gpu,
    peak,
    surroundings,
)

from steelnb import runs
from steelnb.network import kinds
from steelnb.network.tiles import DEFAULT_TILE
from steelnb.network.unet import UNet
from steelnb.training import batches
from steelnb.training.recipes import RECIPES

GIB = 2**30
LIMIT = 13 * GIB  # of a T4's 14.7: the rest is for CUDA itself, cuDNN, and gaps between blocks
FULL = [name for name, text in TEXTS.items() if needs_a_gpu(text)]
NOTED: dict[str, Noted] = {}
PLANNED = re.compile(r"on a T4 (\d+) minutes? planned: ([\d.]+) PFLOP in (half|single) precision at (\d) TFLOP/s"
                     r"(?:, ([\d,]+) steps of 10 ms at least)?")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One folder for all notebooks, as a reader has it: they share data."""
    return tmp_path_factory.mktemp("full")


def noted(name, place):
    """What a notebook's full profile gives to its networks; it is run the first time."""
    if name not in NOTED:
        with surroundings(place), pretended_gpu.pretended(), cut_short(found := Noted()):
            execute(name)
        NOTED[name] = found
    return NOTED[name]


@pytest.mark.filterwarnings("ignore")  # means of nothing, figures of three points
@pytest.mark.parametrize("name", FULL)
def test_the_full_profile_runs(name, place):
    assert noted(name, place).batches, "no network has been on the GPU"


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
def test_every_batch_of_the_full_profile_fits_a_t4(name, place):
    for batch in largest(noted(name, place).batches):
        assert peak(batch) < LIMIT, f"{batch} takes {peak(batch) / GIB:.1f} GiB"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FULL)
def test_a_card_plans_what_the_full_profile_takes(name, place):
    """By counting: operations over a rate. No T4 has measured it yet. Pages of trials end within a quarter of an hour.

    Roughly: 07 trains each loss again for as many steps as fit into the time of the cheapest, which it measures.
    """
    found = noted(name, place)
    said = PLANNED.search(" ".join(TEXTS[name].replace("# ", "").split()))
    if "loss_trials" in TEXTS[name]:
        assert found.minutes <= 15
        assert said, f"its card does not say: {found.sentence()}"
    elif not said:
        pytest.skip(f"its card could say: {found.sentence()}")
    assert said[3] == WORDS[found.main]
    assert float(said[4]) == RATES[found.main] / TERA
    measures = "affordable" in TEXTS[name]
    assert float(said[2]) == pytest.approx(found.work[found.main] / 1e15, rel=0.3 if measures else 0.05)
    assert int(said[1]) == pytest.approx(found.minutes, abs=3 if measures else 1)
    if said[5]:
        assert int(said[5].replace(",", "")) == pytest.approx(found.steps, rel=0.05)


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


def test_a_run_is_counted_to_its_end_and_scored_after_each_epoch(steel, tiny, tmp_path):
    """Two steps are taken of six, and two scorings are one: the work of all is there."""
    images = len(batches.training_and_validation_samples(steel, tiny, seed=0)[1])
    with pretended_gpu.pretended(), cut_short(found := Noted()):
        history = runs.train(steel, tmp_path / "run", tiny.changed(ema=0.5), progress=False, report=lambda line: None)
        assert list(history["step"]) == [3, 6]
        (trained,) = {batch for batch in found.batches if batch.learns}
        (scored,) = {batch for batch in found.batches if not batch.learns}
        image = 2 * multiply_adds(trained.network, trained.shape[2:])
        whole = 2 * scored.shape[0] * multiply_adds(scored.network, scored.shape[2:])
        assert found.steps == 6
        assert sum(found.work.values()) == pytest.approx(6 * 4 * 3 * image + 2 * images * whole)


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
