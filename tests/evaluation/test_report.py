"""Reports of a trained network: which images, by whose masks, and that what is reported was not what was chosen on."""

import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from steelnb import runs
from steelnb.data import dataset as steel_data
from steelnb.data import synthetic
from steelnb.data.dataset import SteelData
from steelnb.evaluation import metrics, predictions, report
from steelnb.evaluation.operating_point import AREAS, GUARDS, THRESHOLDS, OperatingPoint, Sweep
from steelnb.evaluation.scores import ALL, CENTRE, DEFECTIVE, ROWS, SOFT, WHOLE_IMAGE, Key, Scores
from steelnb.network import inference, weights
from steelnb.network.inference import FlipAveraged, probability
from steelnb.network.unet import UNet
from steelnb.network.weights import Trained

DICE = Key("Dice", "any", ALL)
OPTIONS = ["as it is", "flips", "threshold", "threshold, smallest defect", "threshold, guard", "all three",
           "all three, flips"]


@pytest.fixture(scope="module")
def trained(steel, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELNB_HOME", str(folder.parent / "home"))
        runs.train(steel, folder, tiny.changed(epochs=1), device=torch.device("cpu"), progress=False,
                       report=lambda line: None)
    return weights.load_network(folder)


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    """Images of 32×48, for networks that are only pretended."""
    folder = tmp_path_factory.mktemp("forty") / "set"
    return steel_data.read_dataset(synthetic.write_dataset(folder, 40, seed=5, shape=(32, 48), progress=False))


@pytest.fixture(scope="module")
def four(steel):
    torch.manual_seed(1)
    return Trained(UNet(width=2, depth=1, out_channels=4).eval(), {})


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits.astype(float)))


def masks_of(data, image_id, per_class=False):
    return data.masks(image_id) if per_class else data.mask(image_id)[None]


def by_hand(trained, data, ids, point, model=None):
    """Mean Dice of the defective images, and of all with an empty mask giving 1 to an empty prediction."""
    dices, everywhere = [], []
    for image_id in ids:
        logits = inference.predict_logits(model or trained.model, data.image(image_id))
        p, t = point.masks(sigmoid(logits).astype(np.float32))[0], data.mask(image_id)
        everywhere.append(2 * (p & t).sum() / (p.sum() + t.sum()) if t.any() else 1.0 - p.any())
        if t.any():
            dices.append(everywhere[-1])
    return np.mean(dices), np.mean(everywhere)


def told(found, **wanted):
    """The records of a report's JSON that have these entries."""
    return [each for each in found.to_dict()["scores"] if all(each[k] == v for k, v in wanted.items())]


def values(found):
    return found.scores.value(DICE._replace(over=DEFECTIVE)), found.scores.value(DICE)


# ---- which images


def test_scores_match_a_loop(steel, trained):
    found = report.evaluate(trained, steel, "all", replicates=0)
    assert found.about["part"].startswith("12 of 12 images: all images; 9 of them have the name of")
    assert values(found) == pytest.approx(by_hand(trained, steel, steel.images["ImageId"], OperatingPoint()))
    assert found.about["images"] == 12
    assert found.about["clean"] == (steel.images["masks"] == 0).sum()


def test_parts_are_those_of_the_run(steel, trained):
    held_out = trained.metadata["validation"]
    found = report.evaluate(trained, steel, replicates=0)
    assert "held out for validation" in found.about["part"]
    assert found.about["images"] == len(held_out) == 3
    assert values(found) == pytest.approx(by_hand(trained, steel, held_out, OperatingPoint()))
    ids, which = predictions.images_of(trained, steel, "train")
    assert sorted(ids) == sorted(trained.metadata["training"])
    assert which == "9 of 12 images: training images"
    assert predictions.images_of(trained, steel, "all")[0] == list(steel.images["ImageId"])
    assert predictions.images_of(trained, steel) == predictions.images_of(trained, steel, "validation")


def test_an_image_on_both_sides_is_not_called_held_out(steel, trained):
    about = trained.metadata | {"training": [*trained.metadata["training"], trained.metadata["validation"][0]]}
    ids, which = predictions.images_of(trained._replace(metadata=about), steel)
    assert "without 1 that the network was also trained on" in which
    assert sorted(ids) == sorted(trained.metadata["validation"][1:])
    assert predictions.images_of(trained, steel)[1].endswith("(the best epoch was chosen on them)")


def test_weights_that_do_not_say_what_they_were_trained_on(steel, trained):
    ids, which = predictions.images_of(trained._replace(metadata={}), steel)
    assert which == "12 of 12 images: all images"
    assert len(ids) == 12
    found = report.evaluate(trained._replace(metadata={}), steel, replicates=0)
    assert found.about["recipe"] == {}
    assert found.about["part"] == which


def test_other_data_has_no_validation_part(steel, trained):
    other = steel.subset(trained.metadata["training"][:4] + trained.metadata["validation"][:1])
    assert predictions.images_of(trained, other)[1] == (
        "5 of 5 images: all images; 4 of them have the name of a training image"
    )
    for part in ("validation", "train"):
        with pytest.raises(ValueError, match="trained on other data, or the labels have changed: use part 'all'"):
            report.evaluate(trained, other, part)
        with pytest.raises(ValueError, match="trained on other data"):
            report.choose_operating_point(trained, other, part)


def test_other_classes_are_refused(steel, four):
    one = replace(steel, classes=(9,), rows=steel.rows.assign(ClassId=9))
    for ask in (predictions.images_of, report.evaluate, report.choose_operating_point):
        with pytest.raises(ValueError, match=r"the network has 4 classes, .* has 1: \(9,\)"):
            ask(four, one)


def test_a_folder_that_lacks_a_class_is_scored_with_the_network_s(steel, four):
    """Masks of class ids, of which this folder shows the lower ones only: the network knows of the others."""
    fewer = replace(steel, classes=(1, 2), rows=steel.rows[steel.rows["ClassId"] <= 2].reset_index(drop=True))
    named = four._replace(metadata={"data": {"classes": [1, 2, 3, 4]}})
    for network in (named, four._replace(metadata={})):
        found = report.evaluate(network, fewer, "all", replicates=0)
        assert found.about["data"]["classes"] == [1, 2, 3, 4]
        full = report.evaluate(network, replace(fewer, classes=(1, 2, 3, 4)), "all", replicates=0)
        assert found.to_dict()["scores"] == full.to_dict()["scores"]
    turned = four._replace(metadata={"data": {"classes": [4, 3, 2, 1]}})
    assert report.evaluate(turned, fewer, "all", replicates=0).about["data"]["classes"] == [4, 3, 2, 1]
    other = four._replace(metadata={"data": {"classes": [5, 6, 7, 8]}})
    with pytest.raises(ValueError, match="the network has 4 classes"):
        report.evaluate(other, fewer, "all", replicates=0)


@pytest.mark.parametrize("part", ["test", "validations"])
def test_a_part_that_there_is_not_is_refused(steel, trained, part):
    """No KeyError, and no other part in its place."""
    with pytest.raises(ValueError, match="part"):
        report.evaluate(trained, steel, part, replicates=0)


@pytest.mark.parametrize("classes", [1, 4])
def test_a_part_without_an_image_is_refused_or_reported_but_no_crash(steel, trained, four, classes):
    network = four if classes == 4 else trained
    about = {"training": trained.metadata["training"], "data": trained.metadata["data"], "validation": []}
    try:
        found = report.evaluate(network._replace(metadata=about), steel, "validation", replicates=10)
    except ValueError:
        return
    assert found.about["images"] == 0
    json.dumps(found.to_dict(), allow_nan=False)
    assert "0 images" in found.table()


# ---- the network that is scored


def test_flips_are_averaged_as_logits(steel, trained):
    plain, found = (report.evaluate(trained, steel, replicates=0, flips=flips) for flips in (False, True))
    held_out = trained.metadata["validation"]
    assert values(found) == pytest.approx(
        by_hand(trained, steel, held_out, OperatingPoint(), FlipAveraged(trained.model))
    )
    soft = [each.scores.value(DICE._replace(prediction=SOFT)) for each in (plain, found)]
    assert soft[0] != soft[1]
    assert (plain.about["flips"], found.about["flips"]) == (False, True)
    assert "averaged over flips" in found.table()
    assert "averaged over flips" not in plain.table()


@pytest.mark.parametrize(
    "ask", [report.evaluate, report.choose_operating_point, lambda *a, **k: report.evaluate(*a, flips=True, **k)]
)
def test_the_network_is_left_in_the_mode_it_was_in(steel, trained, ask):
    trained.model.eval()
    try:
        ask(trained, steel, "all", replicates=0)
        assert not any(layer.training for layer in trained.model.modules())
    finally:
        trained.model.eval()


def test_the_point_makes_the_masks(steel, trained):
    low = np.median([sigmoid(inference.predict_logits(trained.model, steel.image(i))) for i in steel.images["ImageId"]])
    point = OperatingPoint(float(low), 40, 0.2)
    found = report.evaluate(trained, steel, "all", point=point, replicates=0)
    assert values(found) == pytest.approx(by_hand(trained, steel, steel.images["ImageId"], point))
    assert values(found) != pytest.approx(by_hand(trained, steel, steel.images["ImageId"], OperatingPoint()))
    about = found.to_dict()
    assert (about["threshold"], about["minimum_area"], about["guard"]) == (float(low), 40, 0.2)
    assert about["operating_point"] == str(point)
    assert str(point) in found.table()


def test_label_rows_are_those_of_the_data(steel, trained):
    dices = []
    for row in steel.rows.itertuples():
        p = inference.predict_logits(trained.model, steel.image(row.ImageId))[0] > 0
        t = steel.masks(row.ImageId)[steel.classes.index(row.ClassId)]
        dices.append(2 * (p & t).sum() / (p.sum() + t.sum()))
    found = report.evaluate(trained, steel, "all", replicates=0)
    value = found.scores.values()[DICE._replace(over=ROWS)]
    assert value.value == pytest.approx(np.mean(dices))
    assert value.n == len(steel.rows)


def test_four_classes_have_kaggles_score(steel, four):
    hard, masks = [], []
    for image_id in steel.images["ImageId"]:
        hard.append(inference.predict_logits(four.model, steel.image(image_id)) > 0)
        masks.append(steel.masks(image_id))
    expected = metrics.kaggle_dice(np.array(hard), np.array(masks))
    found = report.evaluate(four, steel, replicates=100)
    value = found.scores.values()[Key("Dice", "all", ALL)]
    assert value.value == pytest.approx(expected, rel=1e-12)
    assert 0 < expected < 1
    assert value.n == 48
    line = f"{expected:.4f} [{value.low:.4f}–{value.high:.4f}], mean Dice over (image, class), empty = 1"
    assert found.to_dict()["kaggle"] == line
    assert found.table().endswith(f"Kaggle's score: {line}")
    assert {each["label"] for each in told(found)} == {"all", "class 1", "class 2", "class 3", "class 4"}
    for k, label in enumerate(("class 1", "class 2", "class 3", "class 4")):
        dice = metrics.dice(np.array(hard), np.array(masks), empty="one").mean(0)[k].item()
        assert found.scores.value(Key("Dice", label, ALL)) == pytest.approx(dice)
    assert not told(found, over=ROWS)


def test_one_mask_has_no_kaggle_score(steel, trained):
    found = report.evaluate(trained, steel, replicates=0)
    assert found.to_dict()["kaggle"].startswith("needs one mask for each of Severstal's four classes")


@pytest.fixture(scope="module")
def elsewhere(steel, tmp_path_factory):
    """The same images with the union of their masks as files, as in sets that are not Severstal."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for place in ("images", "masks"):
        (folder / place).mkdir()
    for image_id in steel.images["ImageId"]:
        stem = image_id.partition(".")[0]
        Image.fromarray(steel.image(image_id)).save(folder / "images" / f"{stem}.png")
        Image.fromarray(steel.mask(image_id)).save(folder / "masks" / f"{stem}.png")
    return steel_data.read_dataset(folder)


@pytest.mark.parametrize("choosing", [False, True])
def test_what_makes_sense_for_severstal_alone_is_shown_for_severstal_alone(steel, elsewhere, trained, choosing):
    ask = report.choose_operating_point if choosing else report.evaluate
    theirs, ours = (ask(trained, data, "all", replicates=0) for data in (steel, elsewhere))
    words = ("original's centre", "label rows", "aggle")
    assert all(word in theirs.table() and word in str(theirs.to_dict()) for word in words)
    assert not any(word in ours.table() or word in str(ours.to_dict()) for word in words)
    assert re.search("^ +whole image, hard +whole image, soft$", ours.table(), re.M)
    kept = {"score": "Dice", "over": DEFECTIVE, "area": WHOLE_IMAGE}
    assert len(told(ours, **kept)) == 2
    assert Key("Dice", "any", ROWS, CENTRE) in ours.scores.values()  # counted all the same
    assert replace(ours, hidden=()).to_dict()["scores"][0].keys() == theirs.to_dict()["scores"][0].keys()
    assert len(replace(ours, hidden=()).values()) == len(theirs.values())


def test_the_centre_of_a_network_in_the_originals_geometry_is_shown_for_every_set(elsewhere, original):
    found = report.evaluate(original, elsewhere, replicates=0)
    assert "original's centre, hard" in found.table()
    assert "label rows" not in found.table()


def test_four_classes_of_another_set_have_no_kaggle_score(steel, four):
    named = replace(steel, class_names=("crack", "pit", "scale", "dent"))
    found = report.evaluate(four, named, replicates=0)
    assert "aggle" not in found.table()
    assert "kaggle" not in found.to_dict()


# ---- the original's geometry


@pytest.fixture(scope="module")
def original():
    torch.manual_seed(2)
    model = UNet.original(width=1)
    model(torch.rand(2, 1, 238, 380))
    with torch.no_grad():
        model.head.weight *= 100
    return Trained(model.eval(), {"recipe": {"geometry": "original"}})


def centre_by_hand(model, data, image_id):
    """Its 87 and 90 mirrored pixels, and what is left of 64×200 after them: 52×196 from (6, 2)."""
    padded = np.pad(data.image(image_id), ((87, 87), (90, 90)), mode="symmetric")
    with torch.inference_mode():
        p = sigmoid(model.eval()(torch.from_numpy(padded)[None, None] / 255)[0, 0].numpy())
    assert p.shape == (52, 196)
    return p


def soft(p, t):
    return 2 * p[t].sum() / (p.sum() + t.sum())


def test_a_network_of_the_originals_geometry_predicts_the_centre_in_its_own(steel, original):
    exact = original._replace(metadata={})
    ids = [i for i in steel.images["ImageId"] if steel.mask(i).any()]
    own, whole, cut, rows = [], [], [], []
    for image_id in ids:
        t, p = steel.mask(image_id), sigmoid(inference.predict_logits(original.model, steel.image(image_id))[0])
        centre = centre_by_hand(original.model, steel, image_id)
        whole.append(soft(p, t))
        if t[6:58, 2:198].any():
            own.append(soft(centre, t[6:58, 2:198]))
            cut.append(soft(p[6:58, 2:198], t[6:58, 2:198]))
        rows += [soft(centre, row[6:58, 2:198]) for row in steel.masks(image_id) if row[6:58, 2:198].any()]
    keys = [Key("Dice", "any", DEFECTIVE, area, SOFT) for area in (WHOLE_IMAGE, CENTRE)]
    found, other = (report.evaluate(each, steel, replicates=0).scores for each in (original, exact))
    assert [found.value(key) for key in keys] == pytest.approx([np.mean(whole), np.mean(own)], rel=1e-5)
    assert [other.value(key) for key in keys] == pytest.approx([np.mean(whole), np.mean(cut)], rel=1e-5)
    assert abs(np.mean(own) - np.mean(cut)) > 1e-3
    assert found.value(Key("Dice", "any", ROWS, CENTRE, SOFT)) == pytest.approx(np.mean(rows), rel=1e-5)


def test_its_centre_has_hard_masks_of_the_same_point_and_flips_of_its_own(steel, original):
    ids = [i for i in steel.images["ImageId"] if steel.mask(i)[6:58, 2:198].any()]
    centres = {i: centre_by_hand(original.model, steel, i) for i in ids}
    point = OperatingPoint(float(np.median(list(centres.values()))))
    hard = [soft((centres[i] > point.threshold).astype(float), steel.mask(i)[6:58, 2:198]) for i in ids]
    key = Key("Dice", "any", DEFECTIVE, CENTRE)
    found = report.evaluate(original, steel, point=point, replicates=0)
    assert found.scores.value(key) == pytest.approx(np.mean(hard), rel=1e-3)
    flipped = []
    for image_id in ids:
        padded = np.pad(steel.image(image_id), ((87, 87), (90, 90)), mode="symmetric")
        with torch.inference_mode():
            x = torch.from_numpy(padded)[None, None] / 255
            logits = sum(original.model(x.flip(axes)).flip(axes) for axes in ((), (2,), (3,), (2, 3))) / 4
        flipped.append(soft(sigmoid(logits[0, 0].numpy()), steel.mask(image_id)[6:58, 2:198]))
    found = report.evaluate(original, steel, flips=True, replicates=0)
    assert found.scores.value(key._replace(prediction=SOFT)) == pytest.approx(np.mean(flipped), rel=1e-5)


def test_choosing_keeps_its_centre(steel, original):
    found = report.choose_operating_point(original, steel, replicates=0)
    second = predictions.halves(steel, steel.images["ImageId"])[1]
    ids = [i for i in second if steel.mask(i)[6:58, 2:198].any()]
    assert not found.about["flips"] or found.options[-1]["taken"]
    if not found.about["flips"]:
        own = [soft(centre_by_hand(original.model, steel, i), steel.mask(i)[6:58, 2:198]) for i in ids]
    else:
        own = []
        for image_id in ids:
            x = np.pad(steel.image(image_id), ((87, 87), (90, 90)), mode="symmetric")
            with torch.inference_mode():
                logits = FlipAveraged(original.model)(torch.from_numpy(x)[None, None] / 255)
            own.append(soft(sigmoid(logits[0, 0].numpy()), steel.mask(image_id)[6:58, 2:198]))
    key = Key("Dice", "any", DEFECTIVE, CENTRE, SOFT)
    assert found.scores.value(key) == pytest.approx(np.mean(own), rel=1e-5)


# ---- as JSON and as a table


NUMBER = re.compile(r"\d+\.\d{3} \[\d+\.\d{3}–\d+\.\d{3}\]")


def shown(record):
    """As the table has it; one image gives a score and no interval."""
    interval = "" if record["low"] is None else f" [{record['low']:.3f}–{record['high']:.3f}]"
    return f"{record['value']:.3f}{interval}"


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("choosing", [False, True])
def test_the_json_is_strict_and_has_every_number_of_the_table(steel, trained, four, classes, choosing):
    ask = report.choose_operating_point if choosing else report.evaluate
    found = ask(trained if classes == 1 else four, steel, "all", replicates=60)
    text = json.dumps(found.to_dict(), allow_nan=False)
    about, table = json.loads(text), found.table()
    assert about == found.to_dict()
    records = [each for each in about["scores"] if each["value"] is not None]
    assert sorted(NUMBER.findall(table)) == sorted(shown(each) for each in records if each["low"] is not None)
    for each in about["scores"]:
        assert list(each) == ["score", "label", "over", "area", "prediction", "value", "low", "high", "n"]
        assert re.search(rf"^{re.escape(each['score'])}", table, re.M)
        if each["score"].startswith(("clean", "defect")) and each["value"] is not None:
            assert shown(each) in table
            assert re.search(rf"^{re.escape(each['score'])} .* of {each['n']}$", table, re.M)
        if each["over"] and each["over"] != "batches":
            assert re.search(rf"^{each['score']}, {each['over']} ", table, re.M)
    labels = dict.fromkeys(each["label"] for each in about["scores"])
    for label in labels:
        assert len(labels) == 1 or re.search(rf"^{label} +whole image, hard +whole image, soft +orig", table, re.M)
    assert table.count("Dice, batches of 2, one with a defect ") == len(labels)
    for area in ("whole image, hard", "whole image, soft", "original's centre, hard", "original's centre, soft"):
        assert table.count(area) == len(labels)
    for word in (steel.name, about["part"], f"{about['images']} images, {about['clean']} of them clean", "95%",
                 "60 replicates", about["operating_point"]):
        assert word in table
    assert about["data"] == {"name": steel.name, "fingerprint": steel.fingerprint(), "classes": [1, 2, 3, 4]}
    assert about["interval"] == 0.95
    assert about["replicates"] == 60
    assert [each["option"] for each in about["options"]] == OPTIONS * choosing
    for option in about["options"]:
        line = next(each for each in table.splitlines() if re.match(rf"{option['option']}( ←)?  ", each))
        gain = option["gain"]
        numbers = [f"{option['dice_empty_is_one']:.3f}", f"{option['dice']:.3f}", f"{option['alarms']:.0%}",
                   option["operating_point"]]
        if option["option"] != "as it is":
            numbers.append(f"{gain['value']:+.3f} [{gain['low']:+.3f} … {gain['high']:+.3f}]")
        assert all(number in line for number in numbers), line
        assert ("←" in line) is option["taken"]


def test_columns_stand_below_each_other(steel, four):
    lines = [line for line in report.evaluate(four, steel, replicates=20).table().splitlines() if "–" in line]
    starts = {match.start() for line in lines[1:-1] for match in NUMBER.finditer(line)}
    assert len(starts) == 4
    assert set(np.diff(sorted(starts))) == {24}


def test_the_calibration_curve_is_in_the_json(steel, trained):
    p = np.concatenate([sigmoid(inference.predict_logits(trained.model, steel.image(i))).ravel()
                        for i in steel.images["ImageId"]])
    t = np.concatenate([steel.mask(i).ravel() for i in steel.images["ImageId"]])
    curve = report.evaluate(trained, steel, "all", replicates=0).to_dict()["calibration"]
    assert sum(each["pixels"] for each in curve) == p.size
    assert sum(each["pixels"] * each["mean_probability"] for each in curve) == pytest.approx(p.sum(), rel=1e-4)
    assert sum(each["pixels"] * each["defect_share"] for each in curve) == pytest.approx(t.sum())
    assert all(type(each["pixels"]) is int and each["pixels"] > 0 for each in curve)
    means = [each["mean_probability"] for each in curve]
    assert means == sorted(means)
    assert len(means) > 3


def test_clean_images_only_are_null_in_json_and_a_dash_in_the_table(steel, trained):
    clean = steel.subset(steel.images["ImageId"][steel.images["masks"] == 0])
    found = report.evaluate(trained, clean, "all", replicates=30)
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert "null" in text
    assert told(found, score="Dice", over=DEFECTIVE, area=WHOLE_IMAGE, prediction="hard")[0]["value"] is None
    line = next(line for line in found.table().splitlines() if line.startswith("Dice, images with a defect"))
    assert line.split()[-4:] == ["–"] * 4
    assert "nan" not in found.table()


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("ask", [report.evaluate, report.choose_operating_point])
def test_without_replicates_no_interval_is_shown(steel, trained, four, classes, ask):
    found = ask(trained if classes == 1 else four, steel, "all", replicates=0)
    for record in told(found):
        assert record["low"] is record["high"] is None
    assert not NUMBER.search(found.table())
    assert "nan" not in found.table()


# ---- halves

IDS = st.lists(st.tuples(st.text("0123456789abcdef", min_size=1, max_size=6), st.booleans()), unique_by=lambda x: x[0])


@given(IDS, st.randoms(use_true_random=False))
@settings(deadline=None, derandomize=True, max_examples=50)
def test_halves_are_disjoint_and_even_and_depend_on_no_order(entries, random):
    table = pd.DataFrame({"ImageId": [i for i, _ in entries], "masks": [0 if clean else 2 for _, clean in entries]})
    ids = [i for i, _ in entries]
    first, second = predictions.halves(SimpleNamespace(images=table), ids)
    assert sorted([*first, *second]) == sorted(ids)
    assert not set(first) & set(second)
    assert abs(len(first) - len(second)) <= 1
    clean = {i for i, is_clean in entries if is_clean}
    assert abs(len(clean.intersection(first)) - len(clean.intersection(second))) <= 1
    defective = set(ids) - clean
    assert abs(len(defective.intersection(first)) - len(defective.intersection(second))) <= 1
    shuffled = random.sample(ids, len(ids))
    turned = table.iloc[::-1].reset_index(drop=True)
    assert predictions.halves(SimpleNamespace(images=turned), shuffled) == (first, second)


def test_halves_follow_from_the_names_not_from_their_order(forty):
    ids = forty.images["ImageId"].tolist()
    first, _ = predictions.halves(forty, ids)
    assert sorted(first) != sorted(ids[::2])
    assert sum(i in first for i in ids[:20]) not in (0, 20)
    assert predictions.halves(forty, iter(ids))[0] == first
    clean = set(forty.images["ImageId"][forty.images["masks"] == 0])
    assert len(clean) > 5
    assert abs(len(clean.intersection(first)) - len(clean) / 2) <= 0.5


# ---- choosing, with networks that are only pretended: their logits by image, without and with flips


def pretend(monkeypatch, logits, outputs=1):
    """logits(image_id, flips) → float [K, H, W]."""

    def predicted(model, image_id):
        both = [logits(image_id, flips).astype(np.float32) for flips in (False, True)]
        pairs = isinstance(model, FlipAveraged) and type(model) is not FlipAveraged
        return probability(np.concatenate(both) if pairs else both[isinstance(model, FlipAveraged)])

    monkeypatch.setattr(SteelData, "image", lambda data, image_id: image_id)  # its name stands for its pixels
    monkeypatch.setattr(predictions, "predict_probabilities", predicted)
    return Trained(UNet(width=1, depth=1, out_channels=outputs).eval(), {})


def noisy(data, seed, scale=2.0, per_class=False):
    """Logits that know the mask somewhat; false defects here and there."""

    def logits(image_id, flips):
        rng = np.random.default_rng([seed, int(flips), *image_id.encode()])
        t = masks_of(data, image_id, per_class)
        blob = np.zeros(t.shape)
        blob[:, 3 : 3 + rng.integers(12), 5 : 5 + rng.integers(16)] = 4 * rng.random()
        return (3 + flips) * (t - 0.5) + blob + scale * rng.standard_normal(t.shape)

    return logits


def half_of(data, which):
    return set(predictions.halves(data, data.images["ImageId"])[which])


def points(found):
    return [(each["option"], each["operating_point"], each["flips"], each["taken"]) for each in found.options]


def scored_by_hand(data, ids, logits, point, flips, **options):
    scores = Scores(point=point, replicates=80, **options)
    for image_id in ids:
        p = torch.from_numpy(logits(image_id, flips).astype(np.float32)).sigmoid().numpy()
        scores.update(p, data.mask(image_id)[None], data.masks(image_id))
    return scores


def swept(data, logits, flips, *, per_class=False):
    sweep = Sweep()
    for image_id in half_of(data, 0):
        p = torch.from_numpy(logits(image_id, flips).astype(np.float32)).sigmoid().numpy()
        sweep.update(p, masks_of(data, image_id, per_class))
    return sweep


@pytest.mark.parametrize("alarms", [None, 0.25, 1.0])
def test_options_are_chosen_on_the_first_half_and_scored_on_the_second(forty, monkeypatch, alarms):
    logits = noisy(forty, 1)
    found = report.choose_operating_point(pretend(monkeypatch, logits), forty, alarms=alarms, replicates=80)
    plain, flipped = (swept(forty, logits, flips) for flips in (False, True))
    expected = {
        "as it is": (OperatingPoint(), False), "flips": (OperatingPoint(), True),
        "threshold": (plain.best(areas=False, guards=False, alarms=alarms), False),
        "threshold, smallest defect": (plain.best(guards=False, alarms=alarms), False),
        "threshold, guard": (plain.best(areas=False, alarms=alarms), False),
        "all three": (plain.best(alarms=alarms), False), "all three, flips": (flipped.best(alarms=alarms), True),
    }
    assert [each["option"] for each in found.options] == OPTIONS
    assert len({str(point) for point, _ in expected.values()}) >= 3
    assert alarms != 1 or (plain.best(alarms=1) != plain.best() and flipped.best(alarms=1) != flipped.best())
    _, second = predictions.halves(forty, forty.images["ImageId"])
    before = scored_by_hand(forty, second, logits, OperatingPoint(), False)
    for each in found.options:
        point, flips = expected[each["option"]]
        assert (each["operating_point"], each["flips"]) == (str(point), flips)
        scores = scored_by_hand(forty, second, logits, point, flips)
        assert each["dice_empty_is_one"] == pytest.approx(scores.value(DICE))
        assert each["dice"] == pytest.approx(scores.value(DICE._replace(over=DEFECTIVE)))
        assert each["alarms"] == scores.value(Key("clean images with an alarm", "any"))
        assert each["gain"] == pytest.approx(before.gain(scores, DICE)._asdict(), abs=1e-12)
        if each["taken"]:
            ours, theirs = found.scores.values(), scores.values()
            assert ours.keys() == theirs.keys()
            assert np.allclose([*ours.values()], [*theirs.values()], atol=1e-8, equal_nan=True)  # two sigmoids
            assert found.scores.point == point
            about = found.to_dict()
            assert (about["threshold"], about["minimum_area"], about["guard"], about["flips"]) == (
                point.threshold, point.minimum_area, point.guard, flips)
    assert sum(each["taken"] for each in found.options) == 1
    assert found.options[0]["gain"] == {"value": 0, "low": 0, "high": 0, "n": 20}
    assert found.about["part"] == ("40 of 40 images: all images; the 20 images of its second half, the operating point "
                                   "chosen on the other 20")
    assert found.about["images"] == 20


@pytest.mark.parametrize("alarms", [None, 0.2])
def test_the_reported_half_has_no_part_in_the_choice(forty, monkeypatch, alarms):
    """Other predictions, or other masks, of the second half: other scores, the same choice."""
    one, other, second = noisy(forty, 1), noisy(forty, 2, scale=4.0), half_of(forty, 1)

    def mixed(image_id, flips):
        return (other if image_id in second else one)(image_id, flips)

    def turned(image_id, flips):
        return (one if image_id in second else other)(image_id, flips)

    three = [report.choose_operating_point(pretend(monkeypatch, each), forty, alarms=alarms, replicates=0)
            for each in (one, mixed, turned)]
    assert points(three[0]) == points(three[1]) != points(three[2])
    assert three[0].options[0]["dice"] != three[1].options[0]["dice"]
    rows = forty.rows.copy()
    rows.loc[rows["ImageId"].isin(second), "EncodedPixels"] = "1 300"
    relabelled = replace(forty, rows=rows)
    found = report.choose_operating_point(pretend(monkeypatch, one), relabelled, alarms=alarms, replicates=0)
    assert points(found) == points(three[0])
    assert found.options[0]["dice"] != three[0].options[0]["dice"]


@pytest.mark.parametrize("good", [0, 1])
def test_what_is_taken_is_decided_on_the_first_half_alone(forty, monkeypatch, good):
    """Flips that are perfect on one half and blind on the other."""
    plain, wins = noisy(forty, 3), half_of(forty, good)

    def logits(image_id, flips):
        if not flips:
            return plain(image_id, False)
        return 20.0 * masks_of(forty, image_id) - 10 if image_id in wins else np.full((1, 32, 48), -10.0)

    found = report.choose_operating_point(pretend(monkeypatch, logits), forty, replicates=0)
    taken = next(each["option"] for each in found.options if each["taken"])
    assert taken == ("all three", "all three, flips")[good == 0]
    assert found.about["flips"] is (good == 0)
    dice = {each["option"]: each["dice"] for each in found.options}
    assert (dice["all three, flips"] > dice["all three"]) is (good == 1)  # on the half that is reported it is not so
    assert found.scores.value(DICE._replace(over=DEFECTIVE)) == dice[taken]
    assert f"{taken} ←" in found.table()


def test_flips_that_gain_nothing_are_not_taken(forty, monkeypatch):
    found = report.choose_operating_point(
        pretend(monkeypatch, lambda i, _: 20.0 * masks_of(forty, i) - 10), forty, replicates=0
    )
    assert found.about["flips"] is False
    assert found.about["operating_point"] == "p > 0.5"
    assert {each["operating_point"] for each in found.options} == {"p > 0.5"}
    assert {each["dice"] for each in found.options} == {1.0}


@pytest.mark.parametrize("alarms", [None, 0.6])
def test_with_a_limit_of_alarms_the_defective_images_decide(forty, monkeypatch, alarms):
    """Flips that find all, but call every other clean image defective: worth it only where that is allowed."""
    clean = forty.images["ImageId"][forty.images["masks"] == 0].tolist()
    noisy = set(clean[::2])
    assert 0.3 < len(noisy & half_of(forty, 0)) / len(half_of(forty, 0) & set(clean)) < 0.6

    def logits(image_id, flips):
        t = masks_of(forty, image_id)
        if flips:
            return np.full(t.shape, 10.0) if image_id in noisy else 20.0 * t - 10
        return 20.0 * t * (np.arange(48) % 4 > 0) - 10

    found = report.choose_operating_point(pretend(monkeypatch, logits), forty, alarms=alarms, replicates=0)
    taken = next(each["option"] for each in found.options if each["taken"])
    assert taken == ("all three" if alarms is None else "all three, flips")
    assert found.about["flips"] is (alarms is not None)


def test_a_limit_of_alarms_is_kept_by_what_is_taken(tmp_path, monkeypatch):
    """Flips that find everything, but cry wolf on every clean image, whatever the point."""
    big = steel_data.read_dataset(
        synthetic.write_dataset(tmp_path / "big", 8, seed=1, shape=(140, 200), progress=False)
    )
    clean = set(big.images["ImageId"][big.images["masks"] == 0])
    assert 2 <= len(clean) <= 6
    assert max(AREAS) < 140 * 200
    assert max(THRESHOLDS) < 0.999 > max(GUARDS)

    def logits(image_id, flips):
        t = big.mask(image_id)[None]
        if flips:
            return np.full(t.shape, 10.0) if image_id in clean else 20.0 * t - 10
        return np.full(t.shape, -10.0) if image_id in clean else 20.0 * t * (np.arange(200) % 2) - 10

    found = report.choose_operating_point(pretend(monkeypatch, logits), big, alarms=0.0, replicates=0)
    assert next(each["option"] for each in found.options if each["taken"]) == "all three"


def test_choosing_over_four_classes(forty, monkeypatch):
    logits = noisy(forty, 4, per_class=True)
    found = report.choose_operating_point(pretend(monkeypatch, logits, outputs=4), forty, replicates=0)
    plain, flipped = (swept(forty, logits, flips, per_class=True) for flips in (False, True))
    assert found.options[5]["operating_point"] == str(plain.best())
    assert found.options[6]["operating_point"] == str(flipped.best())
    taken = next(each for each in found.options if each["taken"])
    better = flipped if flipped.dice.max() > plain.dice.max() else plain
    pairs = []
    for image_id in half_of(forty, 1):
        p = torch.from_numpy(logits(image_id, better is flipped).astype(np.float32)).sigmoid().numpy()
        pairs.append((better.best().masks(p), forty.masks(image_id)))
    kaggle = metrics.kaggle_dice(*(np.array(each) for each in zip(*pairs, strict=True)))
    assert taken["dice_empty_is_one"] == pytest.approx(kaggle)
    assert found.scores.value(Key("Dice", "all", ALL)) == pytest.approx(kaggle)
    assert f"{kaggle:.4f}" in found.about["kaggle"]


def test_choosing_with_a_real_network_scores_what_a_report_scores(steel, trained):
    """"as it is" and "flips" are those of a report on the second half, image by image."""
    found = report.choose_operating_point(trained, steel, "all", replicates=20)
    _, second = predictions.halves(steel, steel.images["ImageId"])
    assert len(second) == 6
    subset = steel.subset(second)
    for name, flips in (("as it is", False), ("flips", True)):
        told = next(each for each in found.options if each["option"] == name)
        alone = report.evaluate(trained, subset, "all", flips=flips, replicates=0)
        assert (told["dice"], told["dice_empty_is_one"]) == pytest.approx(values(alone))


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_images_to_choose_on(steel, trained, n):
    few = steel.subset(steel.images["ImageId"][:n])
    with pytest.raises(ValueError, match=rf"{n} of {n} images.*: too few images to choose an operating point on one h"):
        report.choose_operating_point(trained, few)


def test_two_images_are_enough_and_say_how_little_is_known(steel, trained):
    ids = steel.images["ImageId"]
    two = steel.subset([ids[steel.images["masks"] > 0].iloc[0], ids[steel.images["masks"] == 0].iloc[0]])
    found = report.choose_operating_point(trained, two, replicates=20)
    assert found.about["images"] == 1
    json.dumps(found.to_dict(), allow_nan=False)
    assert "nan" not in found.table()


def test_the_order_of_the_images_changes_no_choice(forty, monkeypatch):
    logits = noisy(forty, 6)
    turned = replace(forty, images=forty.images.iloc[::-1].reset_index(drop=True))
    found = [
        report.choose_operating_point(pretend(monkeypatch, logits), each, replicates=0) for each in (forty, turned)
    ]
    assert points(found[0]) == points(found[1])
    assert [e["dice"] for e in found[0].options] == pytest.approx([e["dice"] for e in found[1].options])


def test_a_report_can_be_made_of_scores_that_are_there(steel, trained):
    scores = Scores(point=OperatingPoint(0.4, 3), replicates=10, batch=3)
    scores.update(np.full((1, 64, 200), 0.45), np.ones((1, 64, 200), bool))
    found = report.build_report(trained, steel, "one that I made", scores)
    about = found.to_dict()
    assert (about["part"], about["images"], about["clean"]) == ("one that I made", 1, 0)
    assert (about["threshold"], about["minimum_area"], about["batch"], about["replicates"]) == (0.4, 3, 3, 10)
    assert about["options"] == []
    assert "batches of 3, one with a defect" in found.table()
    assert "option" not in found.table()
    assert math.isclose(scores.value(DICE), 1)


def test_a_thousand_replicates_unless_said_otherwise(steel, trained):
    one = steel.subset(steel.images["ImageId"][:2])
    assert report.evaluate(trained, one).about["replicates"] == 1000
    assert report.choose_operating_point(trained, one).about["replicates"] == 1000
