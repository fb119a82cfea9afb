"""Each claim in studies/claims.md has one of three grades, a record or test that exists, its numbers found there."""

import json
import re
from decimal import Decimal
from pathlib import Path

import pytest

from steelnb.evaluation import recorded
from studies import runner

ROOT = Path(__file__).resolve().parents[2]
GRADES = {"proved", "recorded", "toy"}
NUMBER = r"[-+]?\d+(?:\.\d+)?"


def rows(text):
    """The rows of the table as lists of cells, without its head."""
    table = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


CLAIMS = rows((ROOT / "studies" / "claims.md").read_text(encoding="utf-8"))


def printed(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    return "\n".join("".join(o.get("text") or o.get("data", {}).get("text/plain", ())) for o in outputs)


def in_json(found, path):
    """What lies at a path of names joined by dots; of a list, the part at a place, or the one with `name=value`."""
    for name in path.split("."):
        if not isinstance(found, list):
            found = found[name]
        elif "=" in name:
            key, _, value = name.partition("=")
            (found,) = [each for each in found if each[key] == value]
        else:
            found = found[int(name)]
    return found


def in_records(path, wanted):
    """The mean of a number over the records with these settings; `seed=0..2` takes each of them once.

    The number may lie deeper, as in `arms.nothing.dice_half`.
    """
    settings, number = wanted.split(": ")
    settings = dict(each.split("=") for each in settings.split(", "))
    first, _, last = settings["seed"].partition("..")
    seeds = list(range(int(first), int(last or first) + 1))

    def fits(setting):
        others = {name: value for name, value in setting.items() if name != "seed"}
        wanted = {name: value for name, value in settings.items() if name != "seed"}
        return setting["seed"] in seeds and {k: str(v) for k, v in others.items()} == wanted

    found = {line["setting"]["seed"]: in_json(line["numbers"], number)
             for line in recorded.lines(path) if fits(line["setting"])}
    assert sorted(found) == seeds, f"{wanted}: recorded are seeds {sorted(found)}"
    return sum(found.values()) / len(found)


def quotes(told, value):
    """Whether `told`, such as 0.34 or 9.7 %, is the value rounded to as many digits."""
    number = Decimal(re.match(NUMBER, told)[0])
    exact = Decimal(repr(float(value))) * (100 if "%" in told else 1)
    return abs(exact - number) <= Decimal(5).scaleb(number.as_tuple().exponent - 1)


def wrong(claim, place, grade, record, checks):
    """What is amiss with a row, in words; nothing where all is well."""
    if grade not in GRADES:
        return f"{grade!r} is no grade"
    if not place:
        return "says not where it is claimed"
    name, _, test = record.strip("`").partition("::")
    path = ROOT / name
    if not path.is_file():
        return f"there is no {name}"
    if test and f"\ndef {test}(" not in path.read_text(encoding="utf-8"):
        return f"{name} has no test {test}"
    numbers, checks = re.findall(r"\*\*(.+?)\*\*", claim), [each for each in checks.split("; ") if each]
    if len(numbers) != len(checks):
        return f"{len(numbers)} numbers in bold and {len(checks)} places to find them in"
    if grade == "recorded" and name.endswith((".jsonl", ".json")) and not numbers:
        return "recorded, with a record, and without a number from it"
    for number, check in zip(numbers, checks, strict=True):
        if check == "printed":
            good = re.search(rf"(?<![\w.]){re.escape(number)}(?![\w.]*\d)", printed(path))
        elif check.startswith('"'):
            words = check.strip('"')
            good = words in runner.summary(path.stem) and any(quotes(number, part) for part in values_in(words, number))
        elif path.suffix == ".jsonl":
            good = quotes(number, in_records(path, check))
        else:
            good = quotes(number, in_json(json.loads(path.read_text(encoding="utf-8")), check))
        if not good:
            return f"{number} is not at {check} of {name}"
    return None


def values_in(words, number):
    return [float(each) / (100 if "%" in number else 1) for each in re.findall(NUMBER, words)]


@pytest.mark.parametrize("row", CLAIMS, ids=[row[0][:50] for row in CLAIMS])
def test_a_claim_is_held_to_its_record(row):
    assert len(row) == 5
    assert wrong(*row) is None


def test_there_are_claims_of_every_grade_and_of_every_notebook():
    assert len(CLAIMS) >= 25
    assert {row[2] for row in CLAIMS} == GRADES
    assert {place for row in CLAIMS for place in row[1].split(", ")} >= {f"{n:02d}" for n in range(2, 10)} | {"README"}


def test_studies_without_a_record_are_not_given_numbers():
    for claim, _, grade, record, checks in CLAIMS:
        if grade == "recorded" and record.strip("`").endswith(".py"):
            assert Path(record.strip("`")).stem in runner.names()
            assert not checks
            assert "is not known" in claim


LOSSES = "`studies/records/losses.jsonl`"
BCE = "data=saliency, loss=bce, steps=80, seed=0..2: dice_half"
RACES = "`benchmarks/results/time_to_quality-2026-11-24.json`"


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (["x", "05", "certain", "`README.md`", ""], "no grade"),
        (["x", "", "toy", "`README.md`", ""], "not where"),
        (["x", "05", "toy", "`notebooks/44_gone.ipynb`", ""], "there is no"),
        (["x", "02", "proved", "`tests/network/test_tiles.py::test_gone`", ""], "no test"),
        (["x", "05", "recorded", LOSSES, ""], "without a number"),
        (["**0.121**", "05", "recorded", LOSSES, ""], "1 numbers in bold and 0"),
        (["**0.122**", "05", "recorded", LOSSES, BCE], "0.122 is not at"),
        (["**39**", "11", "recorded", RACES, "data.synthetic.by_seed.2.fast.ratio"], "39 is not at"),
        (["**88%**", "10", "recorded", "`studies/records/intervals.jsonl`", '"89% (n = 7)"'], "88% is not at"),
        (["**5.5%**", "02", "proved", "`notebooks/02_overlap_tile.ipynb`", "printed"], "5.5% is not at"),
    ],
)
def test_a_claim_that_its_record_does_not_bear_is_found(row, told):
    assert told in wrong(*row)


def test_seeds_that_are_not_recorded_are_named():
    with pytest.raises(AssertionError, match="recorded are seeds"):
        in_records(ROOT / LOSSES.strip("`"), BCE.replace("0..2", "0..99"))
