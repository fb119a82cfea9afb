"""Batches from any place within an epoch, drawn from nothing but seed, epoch and index."""

import random

import numpy as np
import pytest
import torch

from steelnb.training import batches
from steelnb.training.distributed import World


@pytest.fixture
def recipe(tiny):
    """Eleven samples an epoch in batches of 4: the last one is of 3."""
    return tiny.changed(epoch_samples=11)


@pytest.fixture
def training(steel, recipe):
    return batches.training_and_validation_samples(steel, recipe, seed=5)[0]


def drawn(training, recipe, epoch=0, **options):
    return list(batches.iter_batches(training, recipe, epoch, **options))


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x[0], y[0]) and torch.equal(x[1], y[1]) and x[2:] == y[2:] for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("epoch", [0, 3])
def test_from_the_middle_on_it_is_the_rest_of_the_whole(training, recipe, epoch):
    whole = drawn(training, recipe, epoch)
    assert [batch[3] for batch in whole] == [4, 4, 3]
    assert [len(batch[0]) for batch in whole] == [4, 4, 3]
    for start in range(0, 12, 4):
        drawn(training, recipe, epoch + 7)  # whatever was drawn before
        assert same(drawn(training, recipe, epoch, start=start), whole[start // 4 :])
    assert drawn(training, recipe, epoch, start=11) == []


def test_from_within_a_batch_each_sample_still_comes_once(training, recipe):
    """As after a change of the batch's size."""
    whole, rest = drawn(training, recipe), drawn(training, recipe, start=6)
    assert torch.equal(torch.cat([b[0] for b in whole])[6:], torch.cat([b[0] for b in rest]))
    assert [batch[3] for batch in rest] == [4, 1]


def test_other_epochs_and_seeds_draw_others(steel, training, recipe):
    whole = drawn(training, recipe)
    assert not same(drawn(training, recipe, 1), whole)
    assert not same(drawn(batches.training_and_validation_samples(steel, recipe, seed=6)[0], recipe), whole)


def test_the_order_follows_from_the_seed_too(training, recipe, monkeypatch):
    orders = []
    monkeypatch.setattr(type(training), "__getitem__", lambda self, i: orders[-1].append(i) or (torch.zeros(1),) * 2)
    for seed in (0, 1, 0):
        monkeypatch.setattr(training, "seed", seed)
        orders.append([])
        drawn(training, recipe)
    assert orders[0] == orders[2] != orders[1]


def test_what_is_scored_is_spread_over_what_is_held_out(steel, recipe):
    recipe = recipe.changed(validation=0.5, scored=2)
    _, held_out = batches.split_items(steel, recipe, 0)
    _, scored = batches.training_and_validation_samples(steel, recipe, 0)
    assert len(held_out) == 6
    assert [item.image_id for item in scored.items] == [held_out[k].image_id for k in (0, 3)]


def test_a_split_by_row_refuses_groups(steel, recipe):
    grouped = steel.with_groups(dict.fromkeys(steel.images["ImageId"], "one strip"))
    with pytest.raises(ValueError, match="cannot keep groups together"):
        batches.split_items(grouped, recipe.changed(samples="row"), 0)


def test_each_sample_comes_once_in_an_epoch(training, recipe, monkeypatch):
    taken = []
    recipe = recipe.changed(epoch_samples=None)
    monkeypatch.setattr(type(training), "__getitem__", lambda self, i: taken.append(i) or (torch.zeros(1),) * 2)
    drawn(training, recipe)
    assert len(taken) == batches.epoch_length(training, recipe) == len(training)
    assert sorted(taken) == list(range(len(training)))
    assert taken != sorted(taken)


def test_the_global_generators_are_left_alone(training, recipe):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    drawn(training, recipe)
    drawn(training, recipe, start=4)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]  # noqa: NPY002


@pytest.mark.parametrize("size", [2, 3, 4])
def test_processes_share_each_batch_without_rest_or_overlap(training, recipe, size):
    whole = drawn(training, recipe)
    parts = [drawn(training, recipe, share=World(rank, size).share) for rank in range(size)]
    for of_all, *shares in zip(whole, *parts, strict=True):
        rows = torch.stack([part[0][i] for i in range(4) for part in shares if i < len(part[0]) and part[2]])
        assert torch.equal(rows, of_all[0])
        assert {part[3] for part in shares} == {of_all[3]}  # drawn counts the samples of all
        # A mean over processes of factor × (their mean) is the mean over samples.
        means = [part[2] * part[1].float().mean() for part in shares]
        assert sum(means) / size == pytest.approx(of_all[1].float().mean().item(), rel=1e-6)


def test_where_there_are_fewer_samples_than_processes(training, recipe):
    one = recipe.changed(epoch_samples=1)
    (mine,), (theirs,) = (drawn(training, one, share=World(rank, 2).share) for rank in range(2))
    assert (mine[2], theirs[2]) == (2.0, 0.0)
    assert len(mine[0]) == len(theirs[0]) == 1  # all take each step together
    assert mine[3] == theirs[3] == 1


def test_an_epoch_is_as_long_as_the_recipe_says(steel, tiny):
    for samples, length in ((6, 6), (30, 30), (None, len(batches.split_items(steel, tiny, 0)[0]))):
        recipe = tiny.changed(epoch_samples=samples)
        assert batches.epoch_length(batches.training_and_validation_samples(steel, recipe, 0)[0], recipe) == length


def test_parts_are_the_split_and_do_not_meet(steel, tiny):
    recipe = tiny.changed(epoch_samples=None, scored=None)
    sides, parts = batches.split_items(steel, recipe, 3), batches.training_and_validation_samples(steel, recipe, 3)
    assert [part.items for part in parts] == list(sides)
    assert not {i.image_id for i in sides[0]} & {i.image_id for i in sides[1]}
    assert (parts[0].crop, parts[1].crop) == ((32, 64), None)
    assert (parts[0].flips, parts[1].flips) == (True, False)
