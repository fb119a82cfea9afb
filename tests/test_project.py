"""Files about the project agree with the project: workflow, issue form, citation, changelog, module table."""

import ast
import functools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import steelnb

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SERIES = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
FORM = ROOT / ".github" / "ISSUE_TEMPLATE" / "problem.yml"


def loaded(path):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", sorted(
    str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.yml"), *ROOT.glob("*.cff"), *ROOT.glob(".github/**/*.yml")]
))
def test_yaml_is_read_and_no_key_is_there_twice(path):
    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
            assert len(keys) == len(set(keys)), keys
            return super().construct_mapping(node, deep)

    assert isinstance(yaml.load((ROOT / path).read_text(encoding="utf-8"), Strict), dict)


def test_the_workflow_runs_what_is_run_here():
    job = loaded(".github/workflows/ci.yml")["jobs"]["test"]
    versions = job["strategy"]["matrix"]["python"]
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert versions == [f"3.{minor}" for minor in range(11, 11 + len(versions))]  # text: 3.10 would be read as 3.1
    runs = {step.get("if"): step["run"] for step in job["steps"] if "run" in step}
    assert runs == {f"matrix.python == '{versions[0]}'": "bash .ci/run",
                    f"matrix.python != '{versions[0]}'": "make test PYTHON=python"}
    assert (ROOT / ".ci" / "run").is_file()


def test_without_a_root_of_its_own_colabs_python_is_said_to_be_missing(tmp_path):
    """Where nothing can be mounted; `make test-colab` then falls back, and says so."""
    (tmp_path / "unshare").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "unshare").chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    command = ["bash", ROOT / ".ci" / "colab-root", "true"]
    done = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 75
    assert done.stderr.startswith("no root with Python 3.13: ")
    assert "test-colab" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_issue_form_asks_what_is_needed():
    body = {part["id"]: part for part in loaded(FORM)["body"]}
    for needed in ("platform", "notebook", "cell", "output", "versions"):
        assert body[needed]["validations"]["required"]
    for part in body.values():  # what GitHub's schema asks of each
        assert part["type"] in ("dropdown", "textarea", "input", "checkboxes")
        assert part["attributes"]["label"]
        assert (part["type"] == "dropdown") == ("options" in part["attributes"])
    assert {"name", "description", "body"} <= loaded(FORM).keys() <= {"name", "description", "labels", "body"}
    listed = body["notebook"]["attributes"]["options"]
    assert [name for name in listed if name[:2].isdigit()] == SERIES
    asked = re.search(r"`(from steelnb import .*?)`", body["versions"]["attributes"]["description"])[1]
    printed = body["versions"]["attributes"]["placeholder"].splitlines()
    said = []
    exec(asked, {"print": said.append})
    for line, shown in zip(said[0].splitlines(), printed, strict=False):  # the same places, whatever stands there
        assert line.count(" · ") == shown.count(" · ")


def test_the_citation_is_of_this_version():
    citation = loaded("CITATION.cff")
    assert str(citation["version"]) == PROJECT["version"] == steelnb.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    for reference in citation["references"]:
        assert {"type", "title", "authors", "year"} <= reference.keys(), reference["title"]
        assert all("name" in author or "family-names" in author for author in reference["authors"])
    assert citation["references"][0]["repository-code"] in README  # the original comes first


def test_papers_that_the_losses_name_are_credited():
    credited = {(author.get("family-names", "").split()[-1], reference["year"])
                for reference in loaded("CITATION.cff")["references"]
                for author in reference["authors"][:1] if "family-names" in author}
    text = (ROOT / "steelnb" / "losses" / "sound.py").read_text(encoding="utf-8")
    text += "".join((ROOT / "steelnb" / "network" / f"{name}.py").read_text("utf-8") for name in ("unet", "lite_unet"))
    named = re.findall(r"([A-Z][a-z]+)(?: et al\.| & [A-Z]\w+|(?:, [\w ]+)+) (20\d\d)", text)
    assert {(name, int(year)) for name, year in named} <= credited
    assert len(set(named)) >= 12


def test_the_changelog_knows_this_version():
    headings = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert headings[0] == ("Unreleased", "")
    assert headings[1][0] == PROJECT["version"]
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\d", date) for _, date in headings[1:])
    dates = [date for _, date in headings[1:]]
    assert dates == sorted(dates, reverse=True)


# ---- README


def test_readme_is_a_page_that_leads_to_the_rest():
    assert len(README) <= 10_000
    assert all(f"]({page})" in README for page in ("docs/guide.md", "docs/results.md"))


def test_readme_begins_as_the_library_does():
    lines = [line.strip() for line in steelnb.__doc__.splitlines() if line.startswith("    ")]
    assert "```python\nimport steelnb\n\n" + "\n".join(lines) + "\n```" in README


# ---- the rooms


def table():
    """What README's rows name, the top of the house first: rooms, and modules beside them."""
    text = README[README.index("A room imports only from rows below its own") :]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [re.findall(r"`(\w+)/?`", row) for row in rows]


def test_the_table_names_every_room_once():
    named = [name for row in table() for name in row]
    there = {path.stem for path in (ROOT / "steelnb").iterdir() if not path.name.startswith("__pycache__")}
    assert sorted(named) == sorted(there - {"__init__"})


def test_a_room_imports_only_from_rooms_below_it():
    row = {name: number for number, names in enumerate(table()) for name in names}
    upwards = [
        f"{path.relative_to(ROOT)} imports {other}"
        for path in sorted((ROOT / "steelnb").rglob("*.py")) if path.parent.name != "steelnb" or path.stem in row
        for other in imported_rooms(path)
        if other != room(path) and row[other] <= row[room(path)] and {other, room(path)} != {"__main__", "options"}
    ]
    assert upwards == []


def room(path):
    return path.relative_to(ROOT / "steelnb").parts[0].removesuffix(".py")


def imported_rooms(path):
    """Rooms, or modules beside them, that a file imports from; also where an import stands within a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "steelnb":
            inside = node.module.split(".")[1:]
            names = {alias.name for alias in node.names} - {"__version__", "EXIT_STOPPED"}
            yield from inside[:1] or sorted(names)


# ---- what the notebooks teach


def docstrings():
    """Every docstring of the library, with its place."""
    for path in sorted((ROOT / "steelnb").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        for node in (node for node in ast.walk(tree) if isinstance(node, kinds)):
            place = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield f"{place}.{getattr(node, 'name', '')}".rstrip("."), ast.get_docstring(node) or ""


def test_what_is_taught_names_its_notebook_in_the_first_line():
    for place, text in docstrings():
        first, _, rest = text.partition("\n")
        assert "Taught in" not in rest, place
        if "Taught in" in first:
            named = re.findall(r"\b\d\d_\w+", first.partition("Taught in")[2])
            assert named, place
            assert set(named) <= set(SERIES), place
            for notebook in named:  # it names the module, class or function
                assert place.rpartition(".")[2] in identifiers(notebook), (place, notebook)


@functools.cache
def identifiers(notebook):
    """Every name in a notebook's code, and in its imports of this library."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / "notebooks" / f"{notebook}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Name | ast.Attribute):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return found


# ---- what is not for every machine


def test_nothing_below_knows_where_it_lies():
    for path in ("CITATION.cff", "CHANGELOG.md", "CONTRIBUTING.md", ".github/workflows/ci.yml"):
        assert not re.search(r"(?<![\w.:/])/(?:home|root|work|tmp)/", (ROOT / path).read_text(encoding="utf-8"))


def test_this_python_is_one_that_the_workflow_runs():
    versions = loaded(".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    if sys.version_info[:2] > (3, int(versions[-1].partition(".")[2])):
        pytest.skip("newer than the workflow knows")
    assert f"3.{sys.version_info.minor}" in versions
