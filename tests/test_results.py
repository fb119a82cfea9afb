"""What README, docs/results.md and the notebooks quote of measured results is what the files of those runs hold."""

import json
import re
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def results(name):
    return json.loads(sorted(RESULTS.glob(f"{name}-*.json"))[-1].read_text(encoding="utf-8"))


def printed(notebook):
    """All that the committed run of a notebook shows as text."""
    (path,) = (ROOT / "notebooks").glob(f"{notebook}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    return "\n".join("".join(o.get("text") or o.get("data", {}).get("text/plain", ())) for o in outputs)


def cells_below(text, heading):
    """The cells of the first table below a heading, a list a row, without the line under its head."""
    lines = re.search(r"(?:^\|.*\n)+", text[text.index(heading) :], re.M)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]


REAL = "## The smoke recipe on held-out images"


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_page_quotes_the_real_runs(place):
    report = results("real_steel")["runs"][place]["report"]
    row = cells_below(PAGE, REAL)[2 + place]  # after the head and synthetic steel
    label = "all" if len({each["label"] for each in report["scores"]}) > 1 else "any"
    wanted = [("images with a defect", "whole image"), ("all images, empty = 1", "whole image")]
    wanted += [("label rows", "original's centre")] if label == "any" else []
    for over, area in wanted:
        one = next(s for s in report["scores"] if (s["score"], s["over"], s["area"], s["prediction"], s["label"])
                   == ("Dice", over, area, "hard", label))
        assert f"{one['value']:.2f} [{one['low']:.2f}–{one['high']:.2f}]" in " | ".join(row)
    pairs = report["images"] * (len(report["data"]["classes"]) if label == "all" else 1)
    assert re.match(rf"{pairs}\b", row[1])


def test_readme_repeats_rows_of_the_page():
    ours, page = cells_below(README, "## Results"), cells_below(PAGE, REAL)
    assert ours == [next(row[:4] for row in page if row[0] == name) for name, *_ in ours]
    assert len(ours) == 4


def test_the_page_quotes_the_studies():
    """Of the losses seeds 0 to 2, budgets of 80 and 640 steps; records are added, never changed."""
    lines = (ROOT / "studies" / "records" / "losses.jsonl").read_text(encoding="utf-8").splitlines()
    numbers = {tuple(one["setting"].values()): one["numbers"] for one in map(json.loads, lines)}

    def seeds(data, loss, steps, number):
        return [numbers[data, loss, steps, seed][number] for seed in range(3)]

    head, *rows = cells_below(PAGE, "## What notebooks 05 to 07 found")
    assert len(head) == 7
    assert len(rows) == 6
    wanted = [(data, *shown) for data in ("saliency", "synthetic")
              for shown in ((80, "dice_half"), (640, "dice_half"), (640, "dice_chosen"))]
    for loss, *said in rows:
        means = [mean(seeds(data, loss.strip("`"), steps, number)) for data, steps, number in wanted]
        assert said == [f"{each:.2f}" for each in means], loss
    page = " ".join(PAGE.split())
    bce, dice = (seeds("synthetic", loss, 640, "dice_chosen") for loss in ("bce", "dice"))
    assert f"reaches {mean(bce):.2f} (seeds {min(bce):.2f} to {max(bce):.2f}) where Dice loss reaches" in page
    assert f"reaches {mean(dice):.2f} ({min(dice):.2f} to {max(dice):.2f})." in page
    lines = (ROOT / "studies" / "records" / "imbalance.jsonl").read_text(encoding="utf-8").splitlines()
    chosen = {tuple(one["setting"].values()): one["numbers"]["dice_chosen"] for one in map(json.loads, lines)}
    of = {(share, arm): mean([chosen[share, arm, seed] for seed in range(5)])
          for share in (0.01, 0.06, 0.25) for arm in ("bce", "dice")}
    shares = [f"{of[share, 'bce']:.2f} and {of[share, 'dice']:.2f} at {share:.0%}".replace("%", " %")
              for share in (0.01, 0.06, 0.25)]
    assert f"{shares[0]} of defect pixels, {shares[1]} and {shares[2]}" in page


def test_the_page_quotes_how_often_intervals_cover():
    page, study = " ".join(PAGE.split()), (ROOT / "studies" / "README.md").read_text(encoding="utf-8")
    found = re.search(r"intervals cover 89% \(n = 7\), .*", study)[0]
    cover = {n: share for share, n in re.findall(r"(\d+)% \(n = (\d+)\)", found)}
    assert f"cover {cover['7']} % at n = 7, {cover['10']} % at n = 10, {cover['18']} % at n = 18 and n = 25, " in page
    assert f"{cover['50']} % at n = 50 and {cover['180']} % at n = 180" in page
    assert cover["18"] == cover["25"]
    wider = re.search(r"([\d.]+) times as wide at n = 7", study)[1]
    assert f"are {wider} times as wide" in page


def test_notebook_10_quotes_the_ladder_and_the_labels():
    text = (ROOT / "notebooks" / "10_results.py").read_text(encoding="utf-8").replace("\n# ", " ")
    gap = results("gap")
    ladder = {arm["name"]: arm["summary"] for arm in gap["ladder"]["arms"]}

    def pair(name, joined=" and "):
        return joined.join(f"{ladder[name][side]['dice']['mean']:.2f}" for side in ("train", "validation"))

    assert "training " + pair("no augmentation", ", validation ") in text
    assert "with flips " + pair("flips") in text
    assert "four times the images " + pair("no augmentation, 4 × the images") in text
    assert "with eight times " + pair("no augmentation, 8 × the images") in text
    gaps = {arm["name"]: f"{arm['gap']['mean']:.2f}" for arm in gap["ladder"]["arms"]}
    four, eight = (gaps[f"no augmentation, {times} × the images"] for times in (4, 8))
    assert f"more images shrink the gap (to {four} and {eight}; " in text
    assert f"eight times the images leave {four} and {eight} of it" in " ".join(PAGE.split())
    assert "with twice the steps " + pair("no augmentation, twice the steps") in text
    few = next(name for name in ladder if "22" in name or "1/4" in name or "¼" in name)
    assert "22 images and twice the steps " + pair(few) in text
    labels = gap["labels"]
    perfect = labels["perfect_union_against_single_rows"]["whole"]
    assert f"{perfect['train']:.3f} against the training rows and {perfect['validation']:.3f} against" in text
    assert labels["row_order"]["images_torn"] == 0
    assert f"{labels['row_shuffled']['leaked_share_of_validation_rows']['mean']:.1%}".replace("%", " %") in text


def ended(row, run):
    """Dice on all held-out images at the end, in the better of its geometries."""
    final = row["runs"][run]["final"]
    return max(final["dice"], final["dice_own_geometry"] or 0)


def test_the_page_quotes_the_run_length_text():
    rle, page = results("rle"), " ".join(PAGE.split())
    decode, encode = rle["decode: text → mask"], rle["encode: mask → text"]
    ours = decode["steelnb"], encode["steelnb, F bool"]
    assert f"decoding {ours[0]:.0f} µs, encoding {ours[1]:.0f} µs a mask" in page
    theirs = decode["pycocotools, from its own bytes"] / ours[0], encode["pycocotools to bytes, F uint8"] / ours[1]
    assert f"takes {theirs[0]:.1f} times as long to decode its own bytes and {theirs[1]:.1f} times as long" in page
    kaggle = decode["usual Kaggle loop"] / ours[0], encode["usual Kaggle function, F uint8"] / ours[1]
    assert f"functions {kaggle[0]:.1f} and {kaggle[1]:.1f} times" in page


def test_the_page_and_notebook_11_quote_the_races():
    page = " ".join(PAGE.split())
    data = results("time_to_quality")["data"]
    lowest, highest = [], []
    for name in ("synthetic", "sd_saliency_900"):
        rows = data[name]["by_seed"]
        ratios = [row["fast"]["ratio"] for row in rows]
        assert f"a {min(ratios):.0f}th to a {max(ratios):.0f}th" in page
        fast, original = (", ".join(f"{ended(row, run):.2f}" for row in rows) for run in ("fast", "original"))
        assert f"{fast} against {original}" in page
        lowest.append(min(ratios))
        highest.append(max(ratios))
    assert (round(min(lowest)), round(max(highest))) == (6, 38)  # at the top of notebook 11
    text = (ROOT / "notebooks" / "11_hundred_times_faster.py").read_text(encoding="utf-8").replace("\n# ", " ")
    assert "first 500 to 800 steps 6 to 38 times sooner" in text


QUOTED = {  # notebook: what it prints, and the page's words with the same numbers
    "04": [
        (r"one network, eight Dices: (0\.\d\d) to (0\.\d\d)", "scores {} to {} by eight conventions"),
    ],
    "05": [
        (r"background has (\d+)% of the pull at the first step, (\d+)% on the plateau",
         "{} % of the gradient's pull comes from background at the first step, {} % on the plateau"),
        (r"all black for (\d) of (\d) seeds at p > ½, with AP (0\.\d\d) to (0\.\d\d)",
         "All black for {} of {} seeds at p > ½ after 120 steps, with average precision {} to {}"),
        (r"(\d+)% of its variance is the batch's share",
         "{} % of the loss's variance there is the batch's share of defect"),
    ],
    "06": [
        (r"hard Dice of 'all defect' on them: (0\.\d\d)", "calling everything a defect scores {}"),
        (r"(\d) of (\d) seeds; (\d) blow up positive", "{} of {} seeds end negative, {} of 8 positive without bound"),
        (r"(\d) rank the pixels, with AP ([\d.]+) to ([\d.]+);",
         "{} of the positive ones rank the pixels all the same, average precision {} to {}."),
        (r"800 steps: loss down by ([\d.]+)", "loss down by {}, Dice 0"),
        (r"sum: Dice ([\d.]+), ([\d.]+) at worst, no fix; squared pixels: ([\d.]+), ([\d.]+) at worst",
         "(Dice {}, {} at worst of four seeds); squared pixels, as V-Net has them, are one ({}, {})"),
        (r"(\d) of (\d+) weights with a gradient, hash unchanged",
         "{} of {} weights with a gradient, their hash unchanged"),
        (r"sigmoid ([\d.]+), ([\d.]+) at worst; raw ([\d.]+), ([\d.]+) at worst",
         "on equal terms Dice {}, {} at worst of four seeds; raw {}, {} at worst"),
    ],
    "07": [
        (r"overlap losses − plain pixel losses: \+([\d.]+) Dice at p > ½, \+([\d.]+) at a chosen threshold",
         "lead plain pixel losses by {} of Dice at p > ½ and by {} at a threshold chosen on other crops"),
        (r"(-?[\d.]+) +(\d+) steps, chosen threshold, six losses",
         "that after {1} steps at a chosen threshold have a rank correlation of {0}."),
    ],
}


@pytest.mark.parametrize("notebook", QUOTED)
def test_the_page_quotes_what_the_committed_notebooks_print(notebook):
    page, said = " ".join(PAGE.split()), printed(notebook)
    for pattern, words in QUOTED[notebook]:
        found = re.search(pattern, said)
        assert found, f"notebook {notebook} does not print {pattern!r} any more"
        assert words.format(*found.groups()) in page


def test_the_page_quotes_what_a_chosen_threshold_gains_on_synthetic_steel():
    page, said = " ".join(PAGE.split()), printed("10")
    number = r"([+-]?\d\.\d+)"
    gain = re.search(rf"on the other (\d+): {number} \[{number} … {number}\], (\w[\w ]+)", said).groups()
    n, *numbers, verdict = gain
    value, low, high = (f"{float(each):+.2f}".replace("-", "−") for each in numbers)
    assert f"gains {value} [{low} … {high}] with empty = 1 on the other {n}: {verdict}" in page
    before, after = re.search(rf"Dice on defective images {number} → {number}", said).groups()
    assert f"Dice on defective images goes from {before} to {after}." in page


@pytest.mark.skipif(not [*RESULTS.glob("held_out_steel-*.json")], reason="not recorded yet")
def test_the_page_quotes_real_steel_that_was_never_seen():
    head, *rows = cells_below(PAGE, "## Real steel that no network here saw")
    networks, names = results("held_out_steel")["networks"], ("shipped weights", "series' U-Net", "long run")
    assert "30 images" in head[1]
    for (_, *cells), name in zip(rows, names, strict=True):
        for cell, data in zip(cells, ("Severstal", "SD-saliency-900"), strict=True):
            found = networks[name]["sets"][data]
            n = len(found["image_dices"])
            assert cell.startswith(f"{found['dice']:.2f}")
            assert n == 30 if data == "Severstal" else f"({n} images" in cell
    alarms = networks["shipped weights"]["sets"]["Severstal"]["clean_alarm_share"]
    assert sum(share > 0 for share in alarms) == len(alarms)
    assert f"each of the {len(alarms)} clean" in PAGE


def test_the_page_quotes_the_facts_of_the_clinic():
    """Of the facts that are complete: ten seeds; records are added, never changed."""
    page, found = " ".join(PAGE.split()), {}
    for line in (ROOT / "studies" / "records" / "clinic.jsonl").read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        found.setdefault(one["setting"]["fact"], []).append(one["numbers"]["value"])
    value = {fact: mean(found[fact]) for fact in ("unsure_labels", "count", "resizing", "soft_labels")}
    assert all(len(found[fact]) == 10 for fact in value)
    assert f"too small by {-value['unsure_labels']:.2f};" in page
    assert f"several defects {value['count']:.2f} of the defects" in page
    assert f"gives {value['resizing']:.3f} of the labelled pixels" in page
    assert f"soft label is {value['soft_labels']:.3f} better" in page


def test_no_flipped_bit_beside_a_list_of_digests_went_unnoticed():
    forms = results("damage_listed")["forms"]
    assert len(forms) == len(results("damage")["forms"]) == 33
    assert all(counts == {"same": 0, "refused": 1000, "other": 0} for counts in forms.values())
    assert "none of 33,000: all are refused" in (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")


def test_the_benchmarks_readme_quotes_their_files():
    text = " ".join((ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8").split())
    (run,) = results("prediction")["runs"]
    times = {name: one["times_ours"] for name, one in run["contenders"].items()}
    errors = {name: one["largest_error"] for name, one in run["contenders"].items()}
    half, quarter = "MONAI, overlap 0.5, gaussian", "MONAI, overlap 0.25, gaussian"
    assert errors[half] == min(error for name, error in errors.items() if name.startswith("MONAI, "))
    assert f"{times[half]:.1f} times (overlap 0.5, Gaussian;" in text
    assert f"{times[half + ', unasked']:.1f} times as its user calls it" in text
    assert f"of 0.25 {times[quarter]:.1f} and {times[quarter + ', unasked']:.1f} times." in text
    assert f"{errors['steelnb']:.1e} against {errors[half]:.1f} and {errors[quarter]:.1f}" in text
    ratios = run["ratios"]
    layout = ratios["time over one forward, channels last"]
    assert f"{ratios['time over one plain forward']:.2f}; {layout:.2f} of one in channels-last order" in text
    crops, whole = results("batches")["recipes"].values()
    kaggle = whole["usual Kaggle loader"]
    as_bytes = whole["steelnb, bytes for a GPU"]["images_per_s"] / kaggle["images_per_s"]
    assert f"crops {crops['usual Kaggle loader']['ours_times']:.1f}; " in text
    assert f"a GPU {as_bytes:.1f}; as floats {kaggle['ours_times']:.1f}:" in text
    alone, all_of_it = results("imports")["imports"].values()
    assert round(alone["over_torch"], 2) == 0
    assert f"all that trains and predicts {all_of_it['over_torch']:.2f} s" in text
    rows = [row for one in results("time_to_quality")["data"].values() for row in one["by_seed"]]
    ratios = [f"1/{row['fast']['ratio']:.0f}" for row in rows]
    assert f"{', '.join(ratios[:3])} on synthetic steel, {', '.join(ratios[3:])} on SD-saliency-900" in text
