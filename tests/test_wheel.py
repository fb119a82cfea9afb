"""The wheel holds the library and nothing else, and the notebooks' setup cell installs it where there is none.

Each environment is a fresh venv that sees the packages of this one, except steelnb; pip has no network and no index.
"""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SETUP = (ROOT / "notebooks" / "00_start_here.py").read_text("utf-8").split("# %%")[2]
PACKAGES = [Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")]

pytest.importorskip("setuptools", "77", reason="setuptools ≥ 77 builds the wheel")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, which is gone afterwards."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("steelnb", "tests", "notebooks", "tools", "benchmarks", "studies"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*build, "-w", out, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(source)
    (path,) = out.glob("*.whl")
    return path


class Environment:
    """A fresh venv in `folder`, without steelnb and without the packages that `missing` names."""

    def __init__(self, folder, missing=()):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        self.folder, self.outside, self.offered = folder, folder / "outside", folder / "offered"
        (self.python,) = (path for path in (folder / "venv").glob("*/python*") if path.stem == "python")
        where = [self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        self.own = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
        self.seen = folder / "seen"
        for new in (self.outside, self.offered, self.seen):
            new.mkdir()
        hidden = re.compile(rf"(__editable__.*|{'|'.join(['steelnb', *missing])})\b.*|.*\.pth", re.I)
        for package in (path for folder in PACKAGES for path in folder.iterdir()):
            if not hidden.fullmatch(package.name) and not (self.seen / package.name).exists():
                (self.seen / package.name).symlink_to(package)
        (self.own / "seen.pth").write_text(f"{self.seen}\n")

    def offer(self, name, version, needs=""):
        """A wheel of an empty module, in the only place where pip may look."""
        info = f"{name}-{version}.dist-info"
        files = {
            f"{name}.py": "",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        with zipfile.ZipFile(self.offered / f"{name}-{version}-py3-none-any.whl", "w") as file:
            record = ""
            for path, text in files.items():
                file.writestr(path, text)
                digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
                record += f"{path},sha256={digest},{len(text)}\n"
            file.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")

    def run(self, code, spec=""):
        """`code` outside of the repository, where `setup()` runs the setup cell; what it printed, or its error."""
        not_ours = ("PIP_", "PYTHON", "STEELNB_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(not_ours)}
        more = {
            "STEELNB_SPEC": str(spec), "STEELNB_HOME": str(self.folder / "home"), "TQDM_DISABLE": "1",
            "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.offered), "PIP_CONFIG_FILE": os.devnull,
        }
        start = [self.python, "-c", f"def setup():\n    exec({SETUP!r}, {{}})\n\n{code}"]
        return subprocess.run(start, env=kept | more, cwd=self.outside, capture_output=True, text=True)

    def added(self):
        return {path.name for path in self.own.iterdir()} - {"seen.pth", "__pycache__"}


def test_what_the_wheel_holds(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "steelnb").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    others = names - modules
    folders = {"steelnb/audit", "steelnb/results", "steelnb/records", "steelnb/network/files"}
    assert {name.rpartition("/")[0] for name in others} == folders
    assert {Path(name).suffix for name in others} <= {".json", ".jsonl", ".csv", ".safetensors", ".md", ".txt", ".html"}
    assert wheel.stat().st_size < 5_000_000  # most of it two networks, see steelnb/network/files/CARD.md


ONCE = """
import numpy, torch
versions = numpy.__version__, torch.__version__
setup()
import steelnb, steelnb.network.unet
net = steelnb.network.unet.UNet(width=1, depth=1)
assert net(torch.zeros(1, 1, 20, 20)).shape == (1, 1, 4, 4)
assert versions == (numpy.__version__, torch.__version__)
print(steelnb.__file__)
setup()
"""
READS = """
import os, pkgutil, sys
read = []
sys.addaudithook(lambda event, about: event == "open" and read.append(str(about[0])))
import steelnb
for module in pkgutil.walk_packages(steelnb.__path__, "steelnb."):
    __import__(module.name)
from steelnb.data import sources
assert "2 JPEG" in sources.open_dataset("synthetic", images=2, progress=False).describe()
print(*(path for path in read if path.startswith(ROOT) and os.sep + ".venv" not in path[len(ROOT):]), sep="\\n")
"""


def test_setup_installs_once_and_leaves_torch_and_numpy(wheel, tmp_path):
    place = Environment(tmp_path)
    (place.outside / "steelnb").mkdir()  # a folder of that name, such as a clone: no package, and not in the way
    done = place.run(ONCE, wheel)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert Path(said[0]) == place.own / "steelnb" / "__init__.py"
    assert len(said) == 1  # the second time, in the same process, it does nothing
    assert {name.partition("-")[0] for name in place.added()} == {"steelnb"}
    before = place.added()
    again = place.run("setup()", tmp_path / "gone.whl")  # nor does it in the next process: this would fail
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert place.added() == before

    done = place.run(READS.replace("ROOT", repr(str(ROOT))))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "", "the installed library reads the repository"


def test_a_missing_dependency_is_installed_or_named(wheel, tmp_path):
    place = Environment(tmp_path, missing=["tqdm"])
    done = place.run("setup()", wheel)
    assert done.returncode == 1
    assert f"AssertionError: pip could not install {wheel}:" in done.stderr
    assert re.search("ERROR: No matching distribution found for tqdm", done.stderr)
    assert place.added() == set()
    place.offer("tqdm", "4.99")
    done = place.run("setup()\nimport steelnb, tqdm\nprint(tqdm.__file__)", wheel)
    assert done.stdout.splitlines() == [str(place.own / "tqdm.py")], done.stderr


def test_a_newer_numpy_and_torch_are_not_taken(wheel, tmp_path):
    place = Environment(tmp_path, missing=["tqdm"])
    for name, needs in (("tqdm", "Requires-Dist: numpy\nRequires-Dist: torch\n"), ("numpy", ""), ("torch", "")):
        place.offer(name, "99.0", needs=needs)
    done = place.run("setup()\nimport numpy, torch, tqdm\nprint(numpy.__version__, torch.__version__)", wheel)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [metadata.version("numpy"), torch.__version__]
    assert {name.partition("-")[0] for name in place.added()} == {"steelnb", "tqdm", "tqdm.py"}


def test_without_an_address_the_cell_says_what_to_do(tmp_path):
    if "sys.exit" not in SETUP:
        pytest.skip("the address is a real one")
    done = Environment(tmp_path).run("setup()")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "no address yet: set STEELNB_SPEC, or make address\n"


@pytest.mark.parametrize(
    ("spec", "said"),
    [("gone/steelnb-0.1.0-py3-none-any.whl", "No such file"), ("no-such-steelnb==7", "No matching distribution found")],
)
def test_a_source_that_is_not_there_is_named_with_pip_s_words(tmp_path, spec, said):
    done = Environment(tmp_path).run("setup()", spec)
    assert done.returncode == 1
    assert f"AssertionError: pip could not install {spec}:" in done.stderr
    assert said in done.stderr.partition("could not install")[2]
