"""Training leaves a run that can be used, learns, repeats itself, and refuses what cannot work."""

import json

import pandas as pd
import pytest
import torch
from PIL import Image

from steelnb import data, loading, splits, training, weights
from steelnb.recipes import ORIGINAL, RECIPES, SMOKE


def run(steel, folder, recipe, **options):
    return training.train(steel, folder, recipe, device=torch.device("cpu"), progress=False,
                          report=lambda line: None, **options)  # fmt: skip


def test_a_run_folder_holds_what_it_takes(steel, tiny, tmp_path):
    lines = []
    history = training.train(steel, tmp_path / "run", tiny, progress=False, report=lines.append)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "checkpoints", "config.json", "history.csv", "lock", "sessions.csv", "tensorboard", "weights.safetensors",
    ]  # fmt: skip
    assert list(history["epoch"]) == [1, 2]
    assert sum("Dice on defective images" in line for line in lines) == 2
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "run" / "history.csv"), history)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["recipe"]["name"] == "tiny"
    assert config["data"]["fingerprint"] == steel.fingerprint()
    assert (tuple(config["training"]), tuple(config["validation"])) == splits.by_image(steel, 0.2, 0)
    about = weights.load(tmp_path / "run").about
    best = history["validation_dice"].idxmax()
    assert about["epoch"] == history["epoch"][best]
    assert about["scores"]["dice"] == history["validation_dice"][best]


def test_same_seed_same_weights_other_seed_others(steel, tiny, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(steel, tmp_path / name, tiny.changed(epochs=1), seed=seed)
    a, b, c = (weights.load(tmp_path / name).model.state_dict() for name in "abc")
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


def test_it_learns(steel, tiny, tmp_path):
    recipe = tiny.changed(model=dict(width=4, depth=2), epochs=8, epoch_samples=40, learning_rate=1e-2)
    history = run(steel, tmp_path / "run", recipe)
    assert history["train_loss"].iloc[-1] < 0.8 * history["train_loss"].iloc[0]


def test_an_epoch_draws_as_many_samples_as_the_recipe_says(steel, tiny, tmp_path):
    for name, samples, steps in (("few", 6, 3), ("more than there are images", 30, 15), ("each once", None, 5)):
        history = run(steel, tmp_path / name, tiny.changed(epochs=1, batch=2, epoch_samples=samples))
        assert list(history["step"]) == [steps]


def test_steps_end_it_within_an_epoch(steel, tiny, tmp_path):
    history = run(steel, tmp_path / "run", tiny.changed(batch=2), steps=3)
    assert list(history["step"]) == [3]


def test_a_mask_a_class(steel, tiny, tmp_path):
    run(steel, tmp_path / "run", tiny.changed(per_class=True), steps=1)
    assert weights.load(tmp_path / "run").model.config["out_channels"] == 4


def test_the_original_takes_rows_its_geometry_and_its_optimizer(steel, tmp_path):
    narrow = ORIGINAL.changed(model=ORIGINAL.model | {"width": 1})
    train, validation = loading.parts(steel, narrow, seed=0)
    assert len(train) + len(validation) == len(steel.rows)
    assert len(train) == int(0.8 * len(steel.rows))
    assert all(len(item.rows) == 1 for item in train.items)
    assert train.geometry == "original"
    history = run(steel, tmp_path / "run", narrow, steps=1)
    assert history["train_loss"].between(0, 1).all()


def test_recipes_are_what_facts_say():
    assert set(RECIPES) == {"smoke", "modern", "original"}
    original = ORIGINAL.to_dict()
    assert original["model"] == {"width": 64, "depth": 4, "norm": "encoder", "crop": "ceil"}
    assert (original["optimizer"], original["learning_rate"], original["momentum"]) == ("sgd", 1e-3, 0.99)
    assert (original["batch"], original["weight_decay"], original["flips"]) == (2, 0.0, False)


def test_a_run_is_not_overwritten(steel, tiny, tmp_path):
    run(steel, tmp_path / "run", tiny, steps=1)
    before = (tmp_path / "run" / "weights.safetensors").read_bytes()
    with pytest.raises(training.TrainingError, match="holds another run .seed was 0 and is 5"):
        run(steel, tmp_path / "run", tiny, steps=1, seed=5)
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == before


def test_a_loss_that_is_not_finite_stops_it(steel, tiny, tmp_path):
    with pytest.raises(training.TrainingError, match=r"(the loss|a weight) became (nan|inf).*lower the learning rate"):
        run(steel, tmp_path / "run", tiny.changed(learning_rate=1e30, optimizer="sgd", schedule="constant"))


def test_data_that_cannot_be_split_is_refused(steel, tiny, tmp_path):
    one = steel.subset(steel.images["ImageId"][:1])
    with pytest.raises(ValueError, match="1 samples to train on and 0 to validate on"):
        run(one, tmp_path / "run", tiny)
    assert not (tmp_path / "run").exists()


def test_unknown_names_in_a_recipe():
    for name, word in (("optimizer", "lion"), ("schedule", "cosine"), ("samples", "rows"), ("loss", "mse")):
        with pytest.raises(ValueError, match=f"recipe smoke: {name} is '{word}'; it can be "):
            SMOKE.changed(**{name: word})


def test_images_of_several_sizes_do_not_make_a_batch(tiny, tmp_path):
    for name, width in (("a", 40), ("b", 44), ("c", 40)):
        for part in ("images", "masks"):
            (tmp_path / "set" / part).mkdir(parents=True, exist_ok=True)
            Image.new("L", (width, 40), 255 * (part == "masks")).save(tmp_path / "set" / part / f"{name}.png")
    mixed = data.read(tmp_path / "set")
    with pytest.raises(training.TrainingError, match="several sizes do not fit into one batch"):
        run(mixed, tmp_path / "run", tiny.changed(crop=None))
    run(mixed, tmp_path / "run", tiny, steps=1)


def test_a_recipe_may_score_a_part_of_the_held_out_images(steel, tiny, tmp_path):
    history = run(steel, tmp_path / "run", tiny.changed(validation=0.5, scored=2), steps=1)
    assert history["validation_images"].iloc[0] == 2
    held_out = weights.load(tmp_path / "run").about["validation"]
    assert len(held_out) == len(splits.by_image(steel, 0.5, 0).validation)
