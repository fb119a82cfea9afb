"""Pages 07 and 08 draw from the records what the studies' own summaries say, whatever is recorded."""

import ast
import re
from pathlib import Path

import jupytext
import pandas as pd
import pytest

from steelnb.evaluation import recorded
from studies import clinic
from studies import losses as losses_study

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
CLINIC = (NOTEBOOKS / "08_failure_clinic.py").read_text(encoding="utf-8")


def cell(notebook, words):
    (path,) = NOTEBOOKS.glob(f"{notebook}_*.py")
    (found,) = [each.source for each in jupytext.read(path).cells if each.cell_type == "code" and words in each.source]
    return found


@pytest.fixture(scope="module")
def rule():
    space = {"KEY": list(losses_study.KEY), "recorded": recorded}
    exec("import numpy as np\nimport pandas as pd\n" + cell("07", "def rule(study)"), space)
    return space["rule"]


def shifted(study):
    """Records in which `dice_bce` is worse by 0.1 everywhere."""
    worse, study = study["loss"] == "dice_bce", study.copy()
    for number in ("dice_chosen", "dice_half"):
        study.loc[worse, number] -= 0.1
    study.loc[worse, "image_dices"] = study.loc[worse, "image_dices"].map(lambda dices: [each - 0.1 for each in dices])
    return study


@pytest.mark.parametrize("change", [lambda study: study, shifted], ids=["as recorded", "dice_bce worse"])
def test_the_rule_on_the_page_is_the_studys(rule, change):
    study = change(recorded.records("losses"))
    says, told = rule(study), losses_study.summary(study)
    assert f"`{says['best']}` is best by Dice at the chosen threshold" in told
    assert f"the same as the best on both: {', '.join(f'`{name}`' for name in says['tied']) or 'none'}." in told
    stays = f"{'' if says['final'] else ', so far,'} `dice_bce` stays the default" in told
    assert (says["take"] == "dice_bce") == stays
    assert stays or f"`{says['take']}` should be the default" in told
    assert says["final"] == ("Provisional" not in told)


def test_the_page_knows_how_many_trainings_are_planned():
    space = {}
    exec(next(line for line in cell("07", "PLANNED = ").splitlines() if line.startswith("PLANNED")), space)
    assert space["PLANNED"] == len(losses_study.cells())
    assert f"KEY = {list(losses_study.KEY)}".replace("'", '"') in cell("07", "PLANNED = ")


def test_the_clinics_verdicts_are_the_studys(capsys):
    space = {"recorded": recorded}
    exec("import numpy as np\n" + cell("08", "def verdict("), space)
    for line in CLINIC.splitlines():
        if line.startswith("verdict("):
            exec(line, space)
    told = clinic.verdicts(recorded.records("clinic")).set_index("fact")
    assert set(space["verdicts"]) == set(clinic.FACTS)
    for fact, (holds, works, n) in space["verdicts"].items():
        assert (holds, works, n) == ((*told.loc[fact, ["holds", "works", "seeds"]],) if fact in told.index
                                     else (False, False, 0))
    planned = pd.DataFrame(clinic.cells()).groupby("fact").size()
    for fact, seeds in re.findall(r"^(\d+) of (\d+) seeds", capsys.readouterr().out, re.M):
        assert int(fact) <= int(seeds) in set(planned)


def test_every_symptom_leads_to_its_section():
    links = re.findall(r"\]\(#([\w-]+)\) \|", CLINIC)
    anchors = re.findall(r'<a id="([\w-]+)"></a>\n#\n# ## (\d+)', CLINIC)
    assert links == [name for name, _ in anchors]
    assert [int(number) for _, number in anchors] == list(range(1, 17))
    assert set(re.findall(r"\]\(#([\w-]+)\)", CLINIC)) == set(links)


def test_an_altered_record_turns_the_pages_red():
    """The numbers that the pages' text repeats are asserted where the record is read."""
    for notebook, study, words, where in (
        ("07", "losses", 'first.loc["bce"', {"data": "saliency", "loss": "bce", "steps": 80, "seed": 0}),
        ("08", "clinic", 'quoted.to_dict() == ', {"fact": "count", "seed": 0}),
    ):
        records = recorded.records(study)
        tree = ast.parse(cell(notebook, words))
        kept = [node for node in tree.body if "quoted" in ast.unparse(node) or "first" in ast.unparse(node)]
        code = compile(ast.Module(kept, []), notebook, "exec")
        exec(code, {"study": records})
        one = (records[list(where)] == pd.Series(where)).all(axis=1)
        records.loc[one, ["dice_half"] if study == "losses" else ["value"]] += 0.1
        with pytest.raises(AssertionError):
            exec(code, {"study": records})
