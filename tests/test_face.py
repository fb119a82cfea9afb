"""The public names: light to import, there when asked for, each from the room that README names."""

import subprocess
import sys

import pytest

import steelnb

FACE = ("UNet", "evaluate", "load_network", "losses", "open_dataset", "recipes", "segment", "train")


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_the_face_is_what_it_says():
    assert tuple(sorted(steelnb.__all__)) == FACE
    assert set(FACE) <= set(dir(steelnb))


@pytest.mark.parametrize("code", ["import steelnb", "from steelnb.options import parser; parser()"])
def test_importing_loads_nothing_heavy(code):
    loaded = python(f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})")
    assert not {"torch", "pandas", "scipy", "skimage", "matplotlib", "ipywidgets"} & set(loaded)


def test_no_room_but_the_widgets_needs_ipywidgets():
    rooms = "audit, data, evaluation, figures, losses, network, prediction, runs, training"
    assert python(f"from steelnb import {rooms}\nimport sys\nprint('ipywidgets' in sys.modules)") == ["False"]


def test_from_a_folder_of_images_to_masks(steel_folder, tmp_path):
    data = steelnb.open_dataset(steel_folder, progress=False)
    recipe = steelnb.recipes.SMOKE.changed(model=dict(width=2, depth=1), crop=(32, 32), epoch_samples=4, scored=1)
    steelnb.train(data, tmp_path / "run", recipe, epochs=1, progress=False, report=lambda line: None)
    network = steelnb.load_network(tmp_path / "run")
    masks = steelnb.segment(network, data.image(data.images["ImageId"][0]))
    assert isinstance(network.model, steelnb.UNet)
    assert masks.shape == (1, 64, 200)
    assert masks.dtype == bool
    assert steelnb.evaluate(network, data, "all", replicates=0).about["images"] == len(data)
    assert steelnb.losses.LOSSES["dice"] is steelnb.losses.dice_loss
