"""Training leaves a run that can be used, learns, repeats itself, stops and goes on, and refuses what cannot work."""

import io
import json
import math
import os
import re
import shutil
import signal
import time
from types import SimpleNamespace

import lives
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import steelnb
from steelnb import losses, runs, runtime, storage
from steelnb.data import dataset, splits
from steelnb.network import weights
from steelnb.network.unet import UNet
from steelnb.runs import identity, session, training_loop
from steelnb.runs.checkpoints import CheckpointError, Checkpoints
from steelnb.storage import StorageError
from steelnb.training import batches
from steelnb.training.recipes import ORIGINAL, RECIPES, SMOKE
from steelnb.training.trainer import Trainer, decay, optimizer_and_schedule


def run(steel, folder, recipe, **options):
    return runs.train(steel, folder, recipe, device=torch.device("cpu"), progress=False,
                          report=lambda line: None, **options)


def test_a_run_folder_holds_what_it_takes(steel, tiny, tmp_path):
    lines = []
    history = runs.train(steel, tmp_path / "run", tiny, progress=False, report=lines.append)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "checkpoints", "config.json", "groups.csv", "history.csv", "lock", "sessions.csv", "tensorboard",
        "weights.safetensors",
    ]
    assert list(history["epoch"]) == [1, 2]
    assert sum("Dice on defective images" in line for line in lines) == 2
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "run" / "history.csv"), history)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["recipe"]["name"] == "tiny"
    assert config["data"]["fingerprint"] == steel.fingerprint()
    assert (tuple(config["training"]), tuple(config["validation"])) == splits.by_image(steel, 0.2, 0)
    about = weights.load_network(tmp_path / "run").metadata
    best = history["validation_dice"].idxmax()
    assert about["epoch"] == history["epoch"][best]
    assert about["scores"]["dice"] == history["validation_dice"][best]


def test_same_seed_same_weights_other_seed_others(steel, tiny, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(steel, tmp_path / name, tiny.changed(epochs=1), seed=seed)
    a, b, c = (weights.load_network(tmp_path / name).model.state_dict() for name in "abc")
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
    assert weights.load_network(tmp_path / "run").model.config["out_channels"] == 4


def test_the_original_takes_rows_its_geometry_and_its_optimizer(steel, tmp_path):
    narrow = ORIGINAL.changed(model=ORIGINAL.model | {"width": 1})
    train, validation = batches.training_and_validation_samples(steel, narrow, seed=0)
    assert len(train) + len(validation) == len(steel.rows)
    assert len(train) == int(0.8 * len(steel.rows))
    assert all(len(item.rows) == 1 for item in train.items)
    assert train.geometry == "original"
    history = run(steel, tmp_path / "run", narrow, steps=1)
    assert history["train_loss"].between(0, 1).all()


def test_recipes_are_what_facts_say():
    assert set(RECIPES) == {"pretrained", "smoke", "fast", "modern", "original"}
    original = ORIGINAL.to_dict()
    assert original["model"] == {"width": 64, "depth": 4, "norm": "encoder", "crop": "ceil"}
    assert (original["optimizer"], original["learning_rate"], original["momentum"]) == ("sgd", 1e-3, 0.99)
    assert (original["batch"], original["weight_decay"], original["flips"]) == (2, 0.0, False)


def test_a_run_is_not_overwritten(steel, tiny, tmp_path):
    run(steel, tmp_path / "run", tiny, steps=1)
    before = (tmp_path / "run" / "weights.safetensors").read_bytes()
    with pytest.raises(runs.TrainingError, match=r"holds another run .seed was 0 and is 5"):
        run(steel, tmp_path / "run", tiny, steps=1, seed=5)
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == before


def test_a_loss_that_is_not_finite_stops_it(steel, tiny, tmp_path):
    with pytest.raises(runs.TrainingError, match=r"(the loss|a weight) became (nan|inf).*lower the learning rate"):
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
    mixed = dataset.read_dataset(tmp_path / "set")
    with pytest.raises(runs.TrainingError, match="several sizes do not fit into one batch"):
        run(mixed, tmp_path / "run", tiny.changed(crop=None))
    run(mixed, tmp_path / "run", tiny, steps=1)


def test_a_recipe_may_score_a_part_of_the_held_out_images(steel, tiny, tmp_path):
    history = run(steel, tmp_path / "run", tiny.changed(validation=0.5, scored=2), steps=1)
    assert history["validation_images"].iloc[0] == 2
    held_out = weights.load_network(tmp_path / "run").metadata["validation"]
    assert len(held_out) == len(splits.by_image(steel, 0.5, 0).validation)


# ---- stopping, and going on

QUICK = SMOKE.changed(name="quick", model=dict(width=2, depth=1), crop=(32, 32), batch=2, epochs=3, epoch_samples=9,
                      validation=0.3, scored=3)
STEPS = 15  # five an epoch, the last of them with one sample


def doing(step, action):
    """Trainer.step, which does something right after a step, once."""
    take, done = Trainer.step, []

    def taken(trainer, *batch):
        take(trainer, *batch)
        if trainer.steps == step and not done:
            done.append(step)
            action(trainer)

    return taken


def terminate(_=None):
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def after(monkeypatch):
    """Does something right after a step, once."""
    return lambda step, action: monkeypatch.setattr(Trainer, "step", doing(step, action))


@pytest.fixture
def in_scoring(monkeypatch):
    """Does something before the second image of the n-th scoring."""

    def at(number, action):
        evaluate, scorings = training_loop.validate, []

        def scored(model, samples, loss, progress, before_each):
            scorings.append(0)

            def before():
                scorings[-1] += 1
                if len(scorings) == number and scorings[-1] == 2:
                    action()
                before_each()

            return evaluate(model, samples, loss, progress, before)

        monkeypatch.setattr(training_loop, "validate", scored)

    return at


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A folder for what several tests share."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELNB_HOME", str(folder / "home"))
        yield folder, patch


@pytest.fixture(scope="module")
def undisturbed(steel, elsewhere):
    """What QUICK comes to when nothing happens to it: hashes of its last and best weights, and its history."""
    run(steel, elsewhere[0] / "undisturbed", QUICK)
    return lives.end_of(elsewhere[0] / "undisturbed")


@pytest.fixture(scope="module")
def begun_once(steel, elsewhere):
    folder, _ = elsewhere
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", doing(7, terminate))
        run(steel, folder / "begun", QUICK)
    return folder / "begun"


@pytest.fixture
def begun(begun_once, tmp_path):
    """A run of QUICK that was stopped after step 7 of 15, in the second epoch."""
    return shutil.copytree(begun_once, tmp_path / "begun")


def newest(run):
    """The state that a new process would go on from."""
    return Checkpoints(run / "checkpoints").load(print)


def good(run):
    """All that must outlive an accident, byte by byte."""
    return {path.name: path.read_bytes() for path in (*(run / "checkpoints").iterdir(), run / "weights.safetensors")}


class Clock:
    """The session's time, to which a test may add hours."""

    def __init__(self):
        self.added = 0.0

    def perf_counter(self):
        return time.perf_counter() + 3600 * self.added

    def __getattr__(self, name):
        return getattr(time, name)


@pytest.mark.parametrize(
    ("way", "moment"),
    [(way, moment) for way in ("SIGTERM", "Ctrl-C", "session", "hours") for moment in ("within an epoch", "in scoring")]
    + [("SIGTERM", "before scoring"), ("SIGTERM", "at the last step")],
)
def test_stopped_it_goes_on_as_if_nothing_had_happened(
    steel, tmp_path, monkeypatch, after, in_scoring, undisturbed, way, moment
):
    message = {
        "SIGTERM": r"told to stop \(SIGTERM\)",
        "Ctrl-C": r"stopped by hand \(Ctrl-C, or the notebook's stop button\)",
        "session": "the hours of this session are over",
        "hours": "the hours of this run are over",
    }[way]
    monkeypatch.setattr(session, "time", clock := Clock())

    def action(_=None):
        if way in ("session", "hours"):
            clock.added += 2
        else:
            os.kill(os.getpid(), signal.SIGTERM if way == "SIGTERM" else signal.SIGINT)

    step = {"within an epoch": 7, "before scoring": 10, "in scoring": 10, "at the last step": STEPS}[moment]
    in_scoring(2, action) if moment == "in scoring" else after(step, action)
    budget = {"session": dict(session_hours=1), "hours": dict(hours=1)}.get(way, {})
    lines, handler = [], signal.getsignal(signal.SIGINT)
    go = dict(device=torch.device("cpu"), progress=False, report=lines.append)
    history = runs.train(steel, tmp_path / "run", QUICK, **budget, **go)
    assert re.fullmatch(message, history.attrs["ended"])
    assert list(history["epoch"]) == list(range(1, 1 + (step - 1) // 5))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "run" / "history.csv"), history)
    how = "With more hours it" if way == "hours" else "The same call, or command,"
    assert any(re.fullmatch(f"{message}: after step {step} of {STEPS}. {how} goes on", line) for line in lines)
    assert newest(tmp_path / "run")["step"] == step
    assert lives.ledger(tmp_path / "run")[-1]["to_step"] == str(step)
    assert re.fullmatch(message, lives.ledger(tmp_path / "run")[-1]["ended"])
    assert signal.getsignal(signal.SIGINT) is handler

    lines.clear()
    history = runs.train(steel, tmp_path / "run", QUICK, hours=10 if way == "hours" else None, **go)
    assert f"goes on after step {step} of {STEPS}, in epoch {1 + (step - 1) // 5}" in lines[0]
    assert lives.end_of(tmp_path / "run") == undisturbed
    assert history.attrs["ended"] == "finished"
    assert list(history["epoch"]) == [1, 2, 3]
    assert (np.diff(history["seconds"]) > 0).all()
    first, second = lives.ledger(tmp_path / "run")
    assert (second["session"], second["from_step"], second["ended"]) == ("2", str(step), "finished")
    assert float(second["hours_in_all"]) >= float(first["hours_in_all"])


def test_stopped_from_its_own_report(steel, tmp_path, undisturbed):
    """As by a reader who has seen enough."""
    go = dict(device=torch.device("cpu"), progress=False)
    runs.train(steel, tmp_path / "run", QUICK, report=lambda line: "epoch   1" in line and terminate(), **go)
    assert newest(tmp_path / "run")["step"] == 6
    runs.train(steel, tmp_path / "run", QUICK, report=lambda line: None, **go)
    assert lives.end_of(tmp_path / "run") == undisturbed


def test_ctrl_c_twice_ends_it_at_once(steel, begun, after, undisturbed):
    def impatient(_):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    after(9, impatient)
    with pytest.raises(KeyboardInterrupt):
        run(steel, begun, QUICK)
    assert newest(begun)["step"] in (7, 8)
    run(steel, begun, QUICK)
    assert lives.end_of(begun) == undisturbed


def test_stopped_after_each_step(steel, begun, after, undisturbed):
    for step in range(8, 12):
        after(step, terminate)
        run(steel, begun, QUICK)
    assert [int(row["to_step"]) for row in lives.ledger(begun)] == [7, 8, 9, 10, 11]
    run(steel, begun, QUICK)
    assert lives.end_of(begun) == undisturbed


def test_a_spoilt_checkpoint_costs_only_the_steps_since_the_one_before(steel, begun, undisturbed):
    files = sorted((begun / "checkpoints").glob("step-*.pt"))
    files[-1].write_bytes(files[-1].read_bytes()[:-1])
    lines = []
    runs.train(steel, begun, QUICK, device=torch.device("cpu"), progress=False, report=lines.append)
    assert lines[0].startswith(f"checkpoint {files[-1].name} has changed since it was written")
    assert re.search(r"goes on after step (5|6) of 15", lines[1])
    assert lives.end_of(begun) == undisturbed


def test_where_no_checkpoint_is_whole_nothing_is_begun_over(steel, begun):
    for file in (begun / "checkpoints").glob("step-*.pt"):
        file.write_bytes(b"")
    before = good(begun)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be used \(step-.* is empty; "):
        run(steel, begun, QUICK)
    assert good(begun) == before


def test_a_finished_run_returns_its_history_at_once(steel, tmp_path, monkeypatch):
    history, before = run(steel, tmp_path / "run", QUICK), good(tmp_path / "run")
    monkeypatch.setattr(Trainer, "step", lambda *_: pytest.fail("it trains"))
    monkeypatch.setattr(training_loop, "validate", lambda *_: pytest.fail("it scores"))
    lines = []
    again = runs.train(steel, tmp_path / "run", QUICK, device=torch.device("cpu"), report=lines.append)
    pd.testing.assert_frame_equal(again, history)
    assert len(lines) == 1
    assert re.fullmatch(r"session 2 · \d+ s · this run is finished: 15 steps, 3 epochs", lines[0])
    assert good(tmp_path / "run") == before
    assert [row["ended"] for row in lives.ledger(tmp_path / "run")] == ["finished", "finished"]


def test_a_run_folder_without_checkpoints_is_refused(steel, tmp_path):
    for name in ("history.csv", "weights.safetensors"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_bytes(b"of a run")
        with pytest.raises(runs.TrainingError, match="contains a run without checkpoints: choose another folder, or "):
            run(steel, tmp_path / name, QUICK)
        assert (tmp_path / name / name).read_bytes() == b"of a run"


def test_a_run_that_another_session_is_busy_with_is_refused(steel, begun):
    with session.Session(begun), pytest.raises(session.SessionError, match="is in use by another process"):
        run(steel, begun, QUICK)


# ---- another run


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.json", b'{"a model": "of somebody"}'), ("config.json", b"[1]"), ("config.json", b"mine"),
     ("config.json", 100_000 * b"["), ("sessions.csv", b"date,notes\n1 May,mine\n"), ("sessions.csv", b"")],
)
def test_files_of_somebody_else_in_the_run_folder_are_left_alone(steel, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(runs.TrainingError, match=f"{name} exists, is not from a training run and would be "):
        run(steel, tmp_path, QUICK)
    assert (tmp_path / name).read_bytes() == content


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(steel, begun, undisturbed):
    for path in (*(begun / "checkpoints").iterdir(), begun / "history.csv", begun / "weights.safetensors"):
        path.unlink()
    run(steel, begun, QUICK)
    assert lives.end_of(begun) == undisturbed


def test_a_signed_manifest_of_something_else_is_passed_over(steel, begun, undisturbed):
    for listed in ({"checkpoints": [3]}, {"checkpoints": ["../config.json"]}, {"checkpoints": 5}, {"other": []}):
        signed = listed | {"sha256": storage.sha256(json.dumps(listed).encode())}
        (begun / "checkpoints" / "manifest.json").write_text(json.dumps(signed))
        lines = []
        assert Checkpoints(begun / "checkpoints").load(lines.append)["step"] == 7
        assert lines == ["manifest.json is damaged: checkpoints are listed by their file names"]
    run(steel, begun, QUICK)
    assert lives.end_of(begun) == undisturbed


def without(name):
    return lambda state: state.pop(name)


@pytest.mark.parametrize(
    "spoil",
    [without("about"), without("hours"), without("history"), without("model"), without("random"),
     lambda state: state.update(about=3), lambda state: state["about"].pop("versions"),
     lambda state: state["about"].update(training=[["a"]]), lambda state: state.update(hours="many"),
     lambda state: state.update(history=[3]), lambda state: state.update(history=3),
     lambda state: state.update(optimizer=[]), lambda state: state.update(summed=1.0)],
)
def test_a_checkpoint_of_something_else_is_refused_in_words(steel, begun, spoil):
    """Its SHA-256 is right: so it was written like this."""
    (path,) = [p for p in (begun / "checkpoints").glob("step-*.pt") if p.name.startswith("step-000000007")]
    state = newest(begun)
    spoil(state)
    torch.save(state, content := io.BytesIO())
    shutil.rmtree(begun / "checkpoints")
    (begun / "checkpoints").mkdir()
    path.with_name(f"step-000000007.{storage.sha256(content.getvalue())[:16]}.pt").write_bytes(content.getvalue())
    with pytest.raises(runs.TrainingError, match=r"does not say which run it belongs to|does not fit this recipe"):
        run(steel, begun, QUICK)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (dict(learning_rate=0.1), "recipe.learning_rate was 0.004 and is 0.1"),
        (dict(model=dict(width=3, depth=1)), "recipe.model.width was 2 and is 3"),
        (dict(model=dict(width=2)), "recipe.model.depth was 1 and is None"),
        (dict(crop=(32, 64)), "recipe.crop was [32, 32] and is [32, 64]"),
        (dict(batch=3), "recipe.batch was 2 and is 3; steps was 15 and is 9"),
        (dict(seed=5), "seed was 0 and is 5"),
        (dict(epochs=4), "steps was 15 and is 20"),
        (dict(steps=14), "steps was 15 and is 14"),
        (dict(data=True), "data.fingerprint was '"),
        (dict(version="9.9"), f"version was '{steelnb.__version__}' and is '9.9'"),
    ],
)
def test_a_run_is_not_mixed_up_with_another(steel, begun, monkeypatch, what, told):
    before, options = good(begun), {name: what.pop(name) for name in ("seed", "epochs", "steps") if name in what}
    if what.pop("data", False):
        steel = steel.subset(steel.images["ImageId"][:11])
    if "version" in what:
        monkeypatch.setattr(steelnb, "__version__", what.pop("version"))
    with pytest.raises(runs.TrainingError) as error:
        run(steel, begun, QUICK.changed(**what), **options)
    assert str(error.value).startswith(f"{begun} holds another run (")
    assert told in str(error.value)
    assert str(error.value).endswith("): use its settings, choose another folder, or go on with the changes by "
                                     "accept_changes (--accept-changes)")
    assert good(begun) == before


@pytest.mark.parametrize(
    "changes",
    [dict(learning_rate=0.1, schedule="constant", weight_decay=0.5), dict(learning_rate=0.1), dict(batch=3)],
)
def test_accepted_changes_hold_from_the_next_step_on(steel, begun, monkeypatch, changes):
    rates, lines, take = {}, [], Trainer.step

    def taken(trainer, *batch):
        group = trainer.optimizer.param_groups[0]
        rates[trainer.steps] = group["lr"]
        assert group["weight_decay"] == trainer.recipe.weight_decay
        take(trainer, *batch)

    monkeypatch.setattr(Trainer, "step", taken)
    recipe = QUICK.changed(**changes)
    runs.train(steel, begun, recipe, accept_changes=True, device=torch.device("cpu"), progress=False,
                   report=lines.append)
    assert lines[0].startswith("goes on although this differs: recipe.")
    total = 15 if recipe.batch == 2 else 9
    optimizer, schedule = optimizer_and_schedule(UNet(width=1, depth=1), recipe, total)
    expected = []
    for _ in range(total):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert list(rates) == list(range(7, max(rates) + 1))
    assert [rates[step] for step in rates if step < total] == pytest.approx(expected[7:], rel=1e-12)
    assert json.loads((begun / "config.json").read_text())["recipe"]["learning_rate"] == recipe.learning_rate
    assert newest(begun)["about"]["recipe"]["learning_rate"] == recipe.learning_rate
    run(steel, begun, recipe)  # from now on it is a run of this recipe


def test_a_network_that_does_not_fit_is_refused_all_the_same(steel, begun):
    before = good(begun)
    for changes in (dict(model=dict(width=3, depth=1)), dict(per_class=True)):
        with pytest.raises(runs.TrainingError, match="its checkpoint does not fit this recipe: "):
            run(steel, begun, QUICK.changed(**changes), accept_changes=True)
        assert good(begun) == before


def test_another_optimizer(steel, begun, tmp_path):
    """SGD needs nothing that AdamW kept; AdamW needs what SGD never had."""
    history = run(steel, begun, QUICK.changed(optimizer="sgd"), accept_changes=True)
    assert history["train_loss"].map(math.isfinite).all()
    run(steel, tmp_path / "sgd", QUICK.changed(optimizer="sgd"), session_hours=1e-9)
    before = newest(tmp_path / "sgd")["step"]
    with pytest.raises(runs.TrainingError, match="its checkpoint does not fit this recipe: 'step'"):
        run(steel, tmp_path / "sgd", QUICK, accept_changes=True)
    assert newest(tmp_path / "sgd")["step"] == before


def test_other_versions_of_others_are_only_told(steel, begun, monkeypatch, undisturbed):
    about = identity.run_config
    monkeypatch.setattr(
        identity, "run_config", lambda *a: (found := about(*a)) | {"versions": found["versions"] | {"torch": "9.9"}}
    )
    lines = []
    runs.train(steel, begun, QUICK, device=torch.device("cpu"), progress=False, report=lines.append)
    assert lines[0] == f"torch is 9.9 now and was {torch.__version__}: the last digits may differ"
    assert lives.end_of(begun) == undisturbed


def test_another_number_of_threads_is_told(steel, begun, monkeypatch):
    about = identity.run_config
    monkeypatch.setattr(identity, "run_config", lambda *a: about(*a[:-1], 9))
    lines = []
    runs.train(steel, begun, QUICK, device=torch.device("cpu"), progress=False, report=lines.append)
    assert lines[0] == "threads is 9 now and was 1: the last digits may differ"


def test_a_small_network_trains_on_one_thread(steel, tmp_path, monkeypatch, undisturbed):
    """Whatever PyTorch was told before: so a score does not depend on the number of cores."""
    seen, take = set(), Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda *a: (seen.add(torch.get_num_threads()), take(*a)))
    torch.set_num_threads(3)
    try:
        run(steel, tmp_path / "run", QUICK)
        assert (seen, torch.get_num_threads()) == ({1}, 3)
    finally:
        torch.set_num_threads(1)
    assert lives.end_of(tmp_path / "run") == undisturbed
    assert newest(tmp_path / "run")["about"]["versions"]["threads"] == 1


# ---- other images than before


def sides_of(folder):
    about = newest(folder)["about"]
    return set(about["training"]), set(about["validation"])


@pytest.mark.parametrize("seed", range(4))
def test_what_was_trained_on_is_never_held_out(steel, tmp_path, seed):
    ids = list(np.random.default_rng(seed).permutation(steel.images["ImageId"]))
    few, lines = steel.subset(ids[:8]), []
    run(few, tmp_path / "run", QUICK, session_hours=1e-9)
    training, validation = sides_of(tmp_path / "run")
    with pytest.raises(runs.TrainingError, match=r"holds another run .*data\.fingerprint was"):
        run(steel, tmp_path / "run", QUICK)
    runs.train(steel, tmp_path / "run", QUICK, seed=seed, accept_changes=True, progress=False, report=lines.append,
               device=torch.device("cpu"))
    more_training, more_validation = sides_of(tmp_path / "run")
    assert training < more_training
    assert validation < more_validation  # of four new images one
    assert more_training | more_validation == set(ids)
    assert not more_training & more_validation
    assert weights.load_network(tmp_path / "run").metadata["validation"] == sorted(more_validation)
    assert "validation images or labels have changed: the best epoch is chosen among the next ones" in lines
    last = ids[2:]  # and with fewer, those that are left stay as well
    run(steel.subset(last), tmp_path / "run", QUICK, epochs=4, accept_changes=True)
    assert sides_of(tmp_path / "run") == (more_training & set(last), more_validation & set(last))


def test_a_group_follows_its_images_that_were_trained_on(steel):
    ids = steel.images["ImageId"].tolist()
    then = {"training": ids[:4], "validation": ids[4:6]}
    groups = {i: i for i in ids} | {ids[0]: "a", ids[6]: "a", ids[4]: "b", ids[7]: "b", ids[3]: "c", ids[5]: "c",
                                    ids[8]: "c"}
    grouped = steel.with_groups(groups)
    fresh = batches.split_items(grouped, QUICK, 0)
    kept = [{item.image_id for item in side} for side in identity.kept_sides(then, grouped, QUICK, 0, fresh)]
    assert {ids[0], ids[6], ids[3], ids[8]} <= kept[0]
    assert {ids[4], ids[5], ids[7]} <= kept[1]
    assert kept[0] | kept[1] == set(ids)
    assert not kept[0] & kept[1]


def test_a_best_epoch_of_other_images_does_not_compete(steel, begun, tmp_path):
    """Not even one of Dice 1: the weights that are kept are the best on what is held out now."""
    few = steel.subset(steel.images["ImageId"][:11])
    state = newest(begun)
    state["best"] = 1.0
    kept = Checkpoints(tmp_path / "run" / "checkpoints")
    kept.folder.mkdir(parents=True)
    kept.save(state, 7)
    kept.wait()
    history = run(few, tmp_path / "run", QUICK, accept_changes=True)
    assert newest(tmp_path / "run")["best"] == history["validation_dice"][1:].max()
    assert (tmp_path / "run" / "weights.safetensors").exists()


def test_label_rows_that_are_others_are_refused(steel, tmp_path):
    recipe = QUICK.changed(samples="row")
    run(steel.subset(steel.images["ImageId"][:10]), tmp_path / "run", recipe, session_hours=1e-9)
    with pytest.raises(runs.TrainingError, match="recipe quick splits label rows, and they differ from those"):
        run(steel, tmp_path / "run", recipe, accept_changes=True)


def test_changed_pixels_are_noticed(steel_folder, tmp_path):
    """Of the same names, sizes and labels."""
    folder = shutil.copytree(steel_folder, tmp_path / "steel")
    run(dataset.read_dataset(folder), tmp_path / "run", QUICK, session_hours=1e-9)
    path = sorted((folder / "train_images").iterdir())[0]
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    again = dataset.read_dataset(folder)
    with pytest.raises(runs.TrainingError, match=r"holds another run .data\.pixels was '[0-9a-f]{64}' and is '"):
        run(again, tmp_path / "run", QUICK)
    run(again, tmp_path / "run", QUICK, accept_changes=True, session_hours=1e-9)
    run(again, tmp_path / "run", QUICK)


def test_a_run_that_noted_no_pixels_goes_on(steel, begun, undisturbed, monkeypatch):
    load = Checkpoints.load

    def without_pixels(*arguments):
        state = load(*arguments)
        del state["about"]["data"]["pixels"]
        return state

    monkeypatch.setattr(Checkpoints, "load", without_pixels)
    run(steel, begun, QUICK)
    monkeypatch.undo()
    assert lives.end_of(begun) == undisturbed


# ---- moving averages, layouts, compilers

AVERAGED = QUICK.changed(name="averaged", ema=0.9, channels_last=True)


def stepped(steel, recipe, steps=4, seed=0):
    """A trainer after some steps, and the state of its network before the first and after each."""
    samples, _ = batches.training_and_validation_samples(steel, recipe, seed)
    trainer = Trainer(recipe, 1, 10, seed, torch.device("cpu"))
    states = [{name: tensor.double() for name, tensor in trainer.model.state_dict().items()}]
    trainer.begin()
    for batch, _ in zip(batches.iter_batches(samples, recipe, 0), range(steps), strict=False):
        trainer.step(*batch)
        states.append({name: tensor.double() for name, tensor in trainer.model.state_dict().items()})
    return trainer, states


def test_decay_is_that_of_its_formula():
    assert (decay(0.9, 0), decay(0.9, 7), decay(0.2, 5)) == (1 / 10, 8 / 17, 0.2)


def test_without_a_defect_to_validate_on_the_last_epoch_is_kept(steel, tmp_path, tiny):
    clean = steel.subset([i for i in steel.images["ImageId"] if i not in set(steel.rows["ImageId"])])
    history = run(clean, tmp_path / "run", tiny.changed(validation=0.5, epochs=2, epoch_samples=4))
    assert history["validation_dice"].isna().all()
    assert weights.load_network(tmp_path / "run").metadata["epoch"] == 2


def test_the_average_is_what_one_computes_by_hand(steel):
    trainer, states = stepped(steel, QUICK.changed(ema=0.2))
    decays = [1 / 10, 2 / 11, 0.2, 0.2]  # (1 + step) / (10 + step), until that is more than 0.2
    shares = [math.prod(decays)] + [(1 - d) * math.prod(decays[k + 1 :]) for k, d in enumerate(decays)]
    assert sum(shares) == pytest.approx(1)
    for name, tensor in trainer.averaged.state_dict().items():
        expected = sum(share * state[name] for share, state in zip(shares, states, strict=True))
        if name.endswith("num_batches_tracked"):
            assert tensor == 4
        else:
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-6)
            assert not torch.equal(tensor, trainer.model.state_dict()[name])
    assert any(name.endswith("running_var") for name in states[0])


def test_an_average_leaves_the_training_alone(steel):
    plain, averaged = stepped(steel, QUICK)[0], stepped(steel, QUICK.changed(ema=0.9))[0]
    assert plain.averaged is plain.model
    assert all(map(torch.equal, plain.model.state_dict().values(), averaged.model.state_dict().values()))
    assert not any(weight.requires_grad for weight in averaged.averaged.parameters())


def test_the_average_is_what_is_scored_and_kept(steel, tmp_path, monkeypatch):
    evaluate, seen = training_loop.validate, []
    monkeypatch.setattr(training_loop, "validate", lambda model, *a: seen.append(copied(model)) or evaluate(model, *a))
    run(steel, tmp_path / "run", AVERAGED.changed(epochs=1))
    state, kept = newest(tmp_path / "run"), weights.load_network(tmp_path / "run").model.state_dict()
    assert all(torch.equal(kept[name], state["average"][name]) for name in kept)
    assert all(torch.equal(kept[name], seen[0][name]) for name in kept)
    assert not all(torch.equal(kept[name], state["model"][name]) for name in kept)


def copied(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("total", [1, 9, 10, 20, 37, 100])
def test_the_rate_rises_to_the_recipe_s_and_never_above(total):
    recipe = QUICK.changed(schedule="one-cycle", learning_rate=0.5)
    optimizer, schedule = optimizer_and_schedule(UNet(width=1, depth=1), recipe, total)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"] / 0.5)
        optimizer.step()
        schedule.step()
    warm_up = max(1, total // 10)
    assert rates[:warm_up] == pytest.approx([(step + 1) / warm_up for step in range(warm_up)])
    assert max(rates) == pytest.approx(1)
    down = [0.5 + 0.5 * math.cos(math.pi * step / max(1, total - warm_up)) for step in range(total - warm_up)]
    assert rates[warm_up:] == pytest.approx(down)


def test_an_average_that_is_not_finite_is_not_kept(steel, tmp_path, monkeypatch):
    """Though the weights that it is of are."""

    def spoil(trainer):
        with torch.no_grad():
            trainer.averaged.head.bias[:] = math.nan

    monkeypatch.setattr(Trainer, "step", doing(7, spoil))
    told = r"(a weight became infinite or NaN|the validation loss became nan) in epoch 2, near step"
    with pytest.raises(runs.TrainingError, match=told):
        run(steel, tmp_path / "run", AVERAGED, checkpoint_seconds=0)
    kept = newest(tmp_path / "run")
    assert kept["step"] <= 7
    assert all(tensor.isfinite().all() for tensor in kept["average"].values())


@pytest.mark.parametrize("moments", [(7,), (5, 10), (3, 4, 15)])
def test_stopped_with_an_average_it_goes_on_to_the_bit(steel, tmp_path, after, averaged_undisturbed, moments):
    for step in moments:
        after(step, terminate)
        run(steel, tmp_path / "run", AVERAGED)
        assert newest(tmp_path / "run")["step"] == step
    run(steel, tmp_path / "run", AVERAGED)
    end, average = averaged_undisturbed
    assert lives.end_of(tmp_path / "run") == end
    assert all(map(torch.equal, newest(tmp_path / "run")["average"].values(), average.values()))


@pytest.fixture(scope="module")
def averaged_undisturbed(steel, elsewhere):
    folder = elsewhere[0] / "averaged"
    run(steel, folder, AVERAGED)
    return lives.end_of(folder), newest(folder)["average"]


def test_a_run_of_before_goes_on_and_may_take_up_an_average(steel, begun, undisturbed, after, tmp_path):
    about = newest(begun)["about"]["recipe"]
    assert not {"ema", "nesterov", "channels_last", "compile"} & set(about), "as older versions wrote it"
    other = shutil.copytree(begun, tmp_path / "other")
    run(steel, begun, QUICK)
    assert lives.end_of(begun) == undisturbed
    with pytest.raises(runs.TrainingError, match=r"recipe\.ema was None and is 0\.9"):
        run(steel, other, QUICK.changed(ema=0.9))
    before, averages = newest(other)["model"], []
    after(8, lambda trainer: averages.append((copied(trainer.averaged), copied(trainer.model))))
    run(steel, other, QUICK.changed(ema=0.9), accept_changes=True)
    (average, now), decay = averages[0], 8 / 17  # of step 7
    for name in ("head.weight", "encoder.0.1.running_mean"):
        torch.testing.assert_close(average[name], decay * before[name] + (1 - decay) * now[name])
    run(steel, other, QUICK, accept_changes=True)  # and leave it again


def test_how_maps_lie_in_memory_changes_rounding_alone(steel):
    recipe = QUICK.changed(optimizer="sgd", schedule="constant", learning_rate=0.05)
    (plain, _), (last, _) = (stepped(steel, recipe.changed(channels_last=on)) for on in (False, True))
    deep = last.model.encoder[1][0].weight
    assert deep.is_contiguous(memory_format=torch.channels_last)
    assert not deep.is_contiguous()
    for name, tensor in plain.model.state_dict().items():
        torch.testing.assert_close(last.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)
    assert last.mean_loss == pytest.approx(plain.mean_loss, rel=1e-5)
    last.restore(plain.state())
    assert last.model.encoder[1][0].weight.is_contiguous(memory_format=torch.channels_last)


def test_nothing_is_compiled_on_a_cpu(steel, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda _: pytest.fail("compiled"))
    lines = []
    runs.train(steel, tmp_path / "run", QUICK.changed(compile=True), steps=1, device=torch.device("cpu"),
                   progress=False, report=lines.append)
    assert lines.count("not compiled: torch.compile needs a CUDA card of capability 7.0 or newer, and Triton") == 1


def test_what_is_compiled_is_the_same_network(steel, tmp_path, monkeypatch, undisturbed):
    calls = []
    monkeypatch.setattr(runtime, "compiles", lambda device: True)
    monkeypatch.setattr(torch, "compile", lambda model: lambda x: calls.append(1) or model(x))
    lines = []
    runs.train(steel, tmp_path / "run", QUICK.changed(compile=True), device=torch.device("cpu"), progress=False,
                   report=lines.append)
    assert len(calls) == STEPS
    assert not any("not compiled" in line for line in lines)
    assert lives.end_of(tmp_path / "run") == undisturbed


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_from_a_gpu_to_a_cpu_and_back_each_has_its_own_kernels(steel, kind):
    """Both run on the CPU here; `fused` is what a GPU's optimizer says of itself."""
    recipe = QUICK.changed(optimizer=kind, momentum=0.5)
    here, _ = stepped(steel, recipe)
    there, _ = stepped(steel, recipe, steps=0)
    there.optimizer = type(here.optimizer)(there.model.parameters(), lr=1e-3, fused=True)
    there.scheduler = torch.optim.lr_scheduler.LambdaLR(there.optimizer, lambda step: 1.0)
    batch = next(batches.iter_batches(batches.training_and_validation_samples(steel, recipe, 0)[0], recipe, 1))
    for trainer, other, fused in ((there, here, True), (here, there, None)):
        trainer.restore(other.state())
        assert trainer.optimizer.param_groups[0]["fused"] is fused
        trainer.begin()
        trainer.step(*batch)
        assert trainer.steps == other.steps + 1


def test_nesterov_looks_ahead(steel):
    recipe = QUICK.changed(optimizer="sgd", momentum=0.5, learning_rate=0.1, schedule="constant")
    (plain, start), (ahead, _) = (stepped(steel, recipe.changed(nesterov=on), steps=1) for on in (False, True))
    for name, weight in plain.model.named_parameters():  # the first step is 1 + momentum times as long
        first, second = ((t.double() - start[0][name]) for t in (weight, dict(ahead.model.named_parameters())[name]))
        torch.testing.assert_close(second, 1.5 * first, rtol=1e-3, atol=1e-6)


# ---- accidents


def test_weights_that_are_not_finite_are_not_kept(steel, begun, after, monkeypatch, undisturbed):
    before = good(begun)

    def poison(trainer):
        with torch.no_grad():
            next(trainer.model.parameters())[0] = float("nan")

    with monkeypatch.context() as accident:
        accident.setattr(Trainer, "step", doing(8, poison))
        with pytest.raises(runs.TrainingError) as error:
            run(steel, begun, QUICK)
    assert re.fullmatch(r"a weight became infinite or NaN in epoch 2, near step 8: lower the learning rate \(0\.004\), "
                        r"and resume with accept_changes\. The last checkpoint is untouched; the best weights have "
                        r"Dice 0\.\d{3}", str(error.value))
    assert good(begun) == before
    assert lives.ledger(begun)[-1]["ended"].startswith("TrainingError: a weight became infinite or NaN")
    run(steel, begun, QUICK)
    assert lives.end_of(begun) == undisturbed


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_not_kept(steel, begun, monkeypatch, value):
    before, loss = good(begun), losses.LOSSES[QUICK.loss]
    with monkeypatch.context() as accident:
        accident.setitem(losses.LOSSES, QUICK.loss, lambda logits, masks: loss(logits, masks) + value)
        with pytest.raises(runs.TrainingError, match=f"^the loss became {value} in epoch 2, near step 8: lower "):
            run(steel, begun, QUICK)
    assert good(begun) == before
    history = run(steel, begun, QUICK.changed(learning_rate=1e-3), accept_changes=True)  # as the message says
    assert history["train_loss"].map(math.isfinite).all()


def test_a_validation_loss_that_is_not_finite_is_not_kept_either(steel, begun, monkeypatch, undisturbed):
    """The weights and the training are well then; it is what the network says of images that it never saw."""
    loss = losses.LOSSES[QUICK.loss]
    with monkeypatch.context() as accident:
        accident.setitem(losses.LOSSES, QUICK.loss, lambda logits, masks: loss(logits, masks) + (
            0 if logits.requires_grad else float("nan")))
        with pytest.raises(runs.TrainingError, match=r"^the validation loss became nan in epoch 2, near"):
            run(steel, begun, QUICK)
    run(steel, begun, QUICK)
    assert lives.end_of(begun) == undisturbed


def test_a_loss_that_is_not_finite_for_one_step_is_not_kept_either(steel, begun, monkeypatch):
    """As with float16, whose scaler leaves the weights alone then; the loss is looked at once a second only."""
    loss, calls = losses.LOSSES[QUICK.loss], []
    monkeypatch.setattr(Checkpoints, "due", lambda self, every: self.wait() is None)
    monkeypatch.setattr(training_loop, "time", SimpleNamespace(perf_counter=lambda: 5.0))  # that second does not end

    def once(logits, masks):
        calls.append(1)
        return loss(logits, masks) + (float("inf") if len(calls) == 2 else 0)

    with monkeypatch.context() as accident:
        accident.setitem(losses.LOSSES, QUICK.loss, once)
        with pytest.raises(runs.TrainingError, match="the loss became inf"):
            run(steel, begun, QUICK)
    assert newest(begun)["summed"].isfinite(), "what goes on from here cannot become well"
    assert run(steel, begun, QUICK)["train_loss"].map(math.isfinite).all()


def test_a_gpu_without_memory(steel, begun, monkeypatch, undisturbed):
    before, take = good(begun), Trainer.step

    def full(trainer, *batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Trainer, "step", full)
    message = (r"^the GPU has too little memory for batches of 2: use a smaller batch or a smaller crop, and free "
               r"the memory of other notebooks \(restart their kernels\)\. The last checkpoint is untouched; the best "
               r"weights have Dice 0\.\d{3}$")
    with pytest.raises(runs.TrainingError, match=message):
        run(steel, begun, QUICK)
    assert good(begun) == before
    monkeypatch.setattr(Trainer, "step", take)
    run(steel, begun, QUICK)
    assert lives.end_of(begun) == undisturbed


def test_a_full_disk(steel, begun, monkeypatch, undisturbed):
    """By a limit on the size of files, which stands while one session trains."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = good(begun)
    with monkeypatch.context() as accident:
        accident.setattr(Trainer, "step", doing(8, lambda _: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))))
        try:
            with pytest.raises(StorageError) as error:
                run(steel, begun, QUICK, checkpoint_seconds=0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert re.match(r"cannot write (step-0000000\d\d\S+\.pt|weights\.safetensors), 0\.\d MB, in .*: File too large\. "
                    r"Make room there \(on Google Drive, empty the trash too\), then run the same command again$",
                    str(error.value))
    assert good(begun) == before
    run(steel, begun, QUICK)
    assert lives.end_of(begun) == undisturbed


@pytest.mark.parametrize("kind", ["finished writing", "still writing"])
def test_a_disk_that_is_full_for_a_while(steel, begun, monkeypatch, kind, undisturbed):
    """Told at the next checkpoint, or at the end, when it was written in the background."""
    before, write = good(begun), storage.write_file

    def full(path, content):
        if path.suffix == ".pt":
            raise StorageError(f"cannot write {path.name}: No space left on device")
        write(path, content)

    monkeypatch.setattr(storage, "write_file", full)
    every = 0 if kind == "still writing" else 3600
    with pytest.raises(StorageError, match=r"cannot write step-0000000\d\d\S+: No space left on device"):
        run(steel, begun, QUICK, checkpoint_seconds=every)
    monkeypatch.undo()
    assert {name: good(begun)[name] for name in before if name.endswith(".pt")} == {
        name: content for name, content in before.items() if name.endswith(".pt")
    }


@pytest.mark.parametrize("name", ["history.csv", "sessions.csv"])
def test_a_run_does_not_stop_for_a_log_that_another_program_has_open(steel, begun, monkeypatch, name, undisturbed):
    write, lines = storage.write_file, []

    def refused(path, content):
        if path.name == name:
            raise StorageError(f"cannot write {name}: Permission denied")
        write(path, content)

    monkeypatch.setattr(storage, "write_file", refused)
    runs.train(steel, begun, QUICK, device=torch.device("cpu"), progress=False, report=lines.append)
    monkeypatch.undo()
    assert lines.count(f"the run continues without its log: cannot write {name}: Permission denied") == 1
    run(steel, begun, QUICK)  # the log is made up for
    assert lives.end_of(begun) == undisturbed


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of TensorBoard's writer
def test_a_run_folder_that_vanishes(steel, begun, after):
    after(8, lambda _: shutil.rmtree(begun))
    with pytest.raises(StorageError, match="The folder can no longer be reached: mount it again, then run the same "):
        run(steel, begun, QUICK)
    assert not begun.exists(), "something was written where the mount was"


def test_a_run_does_not_die_of_its_curves(steel, begun, monkeypatch, undisturbed):
    from torch.utils.tensorboard import SummaryWriter

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    lines = []
    runs.train(steel, begun, QUICK, device=torch.device("cpu"), progress=False, report=lines.append)
    assert sum("no more events for TensorBoard in this session" in line for line in lines) == 1
    assert lives.end_of(begun) == undisturbed


# ---- what it leaves, and what it takes


def curves(run):
    """What TensorBoard would draw: a list of (step, value) a tag."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulators.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_curves_are_the_history(steel, tmp_path):
    history = run(steel, tmp_path / "run", QUICK)
    drawn = curves(tmp_path / "run")
    for column in history.columns.drop(["epoch", "step"]):
        steps, values = zip(*drawn[f"epoch/{column}"], strict=True)
        assert steps == (5, 10, 15)
        np.testing.assert_allclose(values, history[column], rtol=1e-6)
    assert {"running/loss", "running/learning_rate"} <= set(drawn)
    ends = [(step, value) for step, value in drawn["running/loss"] if step in (5, 10, 15)]
    np.testing.assert_allclose([value for _, value in ends], history["train_loss"], rtol=1e-6)


def test_what_is_trained_again_is_drawn_once(steel, tmp_path, monkeypatch, after, undisturbed):
    """The last checkpoint is of step 5, the accident at 13: steps 6 to 13 come twice, in the curves once."""

    def no_memory(_):
        raise torch.OutOfMemoryError

    after(13, no_memory)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "due", lambda *_: False)
        scored = Trainer.end_epoch
        patch.setattr(Trainer, "end_epoch", lambda trainer, scores: scored(trainer, scores) and trainer.epoch == 1)
        with pytest.raises(runs.TrainingError, match="too little memory"):
            run(steel, tmp_path / "run", QUICK)
    assert newest(tmp_path / "run")["step"] == 5
    assert [step for step, _ in curves(tmp_path / "run")["epoch/train_loss"]] == [5, 10]
    assert len(pd.read_csv(tmp_path / "run" / "history.csv")) == 2  # ahead of the checkpoint
    run(steel, tmp_path / "run", QUICK)
    assert [step for step, _ in curves(tmp_path / "run")["epoch/train_loss"]] == [5, 10, 15]
    steps = [step for step, _ in curves(tmp_path / "run")["running/loss"]]
    assert sorted(set(steps)) == steps
    assert lives.end_of(tmp_path / "run") == undisturbed


def test_what_checkpoints_cost_is_told(steel, tmp_path):
    lines = []
    runs.train(steel, tmp_path / "run", QUICK, device=torch.device("cpu"), progress=False, report=lines.append)
    told = re.fullmatch(r"(\d+) checkpoints took (\d+\.\d\d)% of this session's time", lines[-1])
    assert int(told[1]) >= 2
    assert 0 < float(told[2]) < 100


def test_half_precision_keeps_its_scaler(steel, tmp_path, monkeypatch, after):
    """As on Colab's T4: float16 with a scaler, here on the CPU."""
    monkeypatch.setattr(runtime, "precision", lambda device: torch.float16)
    whole = run(steel, tmp_path / "whole", QUICK)
    assert whole[["train_loss", "validation_loss"]].map(math.isfinite).all(axis=None)
    state = newest(tmp_path / "whole")
    assert state["scaler"]["scale"] >= 1
    assert all(tensor.dtype != torch.float16 for tensor in state["model"].values())

    def shrink(trainer):  # what a gradient that overflows does
        trainer.scaler.update(new_scale=512.0)
        terminate()

    after(7, shrink)
    run(steel, tmp_path / "run", QUICK)
    assert newest(tmp_path / "run")["scaler"]["scale"] == 512
    scales = []
    after(8, lambda trainer: scales.append(trainer.scaler.get_scale()))
    run(steel, tmp_path / "run", QUICK)
    assert scales == [512]


def test_seconds_a_step(steel):
    assert 0 < runs.seconds_a_step(steel, QUICK, device=torch.device("cpu")) < 60
    one = QUICK.changed(epoch_samples=1)  # a single step is better than none
    assert 0 < runs.seconds_a_step(steel, one, device=torch.device("cpu")) < 60


def test_every_state_that_is_saved_holds_all_that_is_needed(steel, begun):
    state = newest(begun)
    assert set(state) == {"model", "optimizer", "scheduler", "scaler", "random", "epoch", "seen", "step", "summed",
                          "seconds", "best", "history", "about", "hours"}
    assert set(state["random"]) == {"python", "numpy", "torch", "cuda"}
    assert (state["epoch"], state["seen"], state["step"]) == (1, 4, 7)
    assert state["best"] == max(row["validation_dice"] for row in state["history"])
    assert state["seconds"] > 0
    assert state["about"] == json.loads((begun / "config.json").read_text())
    assert state["about"]["data"]["fingerprint"] == steel.fingerprint()
    assert set(state["about"]["versions"]) == {"python", "torch", "numpy", "threads"}


@pytest.mark.gpu
def test_on_a_gpu_it_goes_on_to_the_bit_too(steel, tmp_path, monkeypatch, after):
    """With deterministic algorithms; without them a GPU does not repeat itself even undisturbed."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    torch.use_deterministic_algorithms(True)
    go = dict(device=torch.device("cuda"), progress=False, report=lambda line: None)
    try:
        runs.train(steel, tmp_path / "undisturbed", QUICK, **go)
        after(7, terminate)
        runs.train(steel, tmp_path / "run", QUICK, **go)
        assert newest(tmp_path / "run")["step"] == 7
        assert newest(tmp_path / "run")["random"]["cuda"]
        runs.train(steel, tmp_path / "run", QUICK, **go)
    finally:
        torch.use_deterministic_algorithms(False)
    assert lives.end_of(tmp_path / "run") == lives.end_of(tmp_path / "undisturbed")
