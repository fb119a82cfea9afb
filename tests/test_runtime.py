"""Where the code runs: Colab, Kaggle and GPUs simulated by their environment."""

import contextlib
import math
import os
import shlex
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from steelnb import __version__, runtime
from steelnb.options import parser

VARIABLES = ("KAGGLE_KERNEL_RUN_TYPE", "COLAB_RELEASE_TAG", "STEELNB_PROFILE", "STEELNB_HOME", "STEELNB_DATA",
             "XDG_CACHE_HOME")

HAS = runtime._has  # before the fixture takes its place


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """A local machine with a CPU and nothing set."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setattr(runtime, "_has", lambda module: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def insert_card(monkeypatch, name, major, minor):
    """A CUDA card of that compute capability; like PyTorch, it emulates the bfloat16 that it does not have."""

    def supported(including_emulation=True):
        return including_emulation or major >= 8

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_90"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (major, minor))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: SimpleNamespace(major=major, minor=minor))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)


def test_a_card_that_pytorch_has_no_code_for_is_told(monkeypatch):
    insert_card(monkeypatch, "Tesla P100-PCIE-16GB", 6, 0)
    assert runtime.device().type == "cuda"
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90", "compute_90"])
    with pytest.raises(RuntimeError, match=r"P100.* has capability 6\.0, .* only for sm_75 sm_80 .*: use another"):
        runtime.device()


@pytest.mark.parametrize(
    ("card", "built", "runs"),
    [
        ((7, 5), ["sm_75"], True),
        ((7, 0), ["sm_75"], False),
        ((8, 6), ["sm_75", "sm_80"], True),  # the same generation, newer
        ((8, 6), ["sm_75"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((6, 0), ["sm_90", "compute_90"], False),
        ((12, 0), ["sm_90"], False),
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a"], False),
        ((12, 0), ["sm_120"], True),
        ((9, 4), ["gfx942"], True),  # another maker's names
        ((7, 5), [], True),
    ],
)
def test_which_code_runs_on_which_card(card, built, runs):
    assert runtime.runs_on(card, built) is runs


def test_make_deterministic(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    try:
        runtime.make_deterministic()
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_on_kaggle_the_cache_is_not_saved_with_the_notebook(monkeypatch, tmp_path):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert not runtime.cache_folder().is_relative_to("/kaggle/working")
    assert runtime.runs_folder() == Path("/kaggle/working/steelnb/runs")
    monkeypatch.setenv("STEELNB_HOME", str(tmp_path))
    assert runtime.cache_folder() == tmp_path / "cache"


def test_where(monkeypatch):
    assert runtime.where() == "local"
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab_20260101")
    assert runtime.where() == "colab"
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")  # Kaggle's image grew out of Colab's
    assert runtime.where() == "kaggle"


def test_where_by_colab_s_package(monkeypatch):
    monkeypatch.setattr(runtime, "_has", lambda module: module == "google.colab")
    assert runtime.where() == "colab"


def test_has():
    assert HAS("torch.nn")
    for missing in ("no_such_package", "no_such_package.part", "torch.no_such_part"):
        assert not HAS(missing)


def test_device_and_profile(monkeypatch):
    assert runtime.device() == torch.device("cpu")
    assert runtime.profile() == "smoke"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert runtime.device() == torch.device("mps")
    assert runtime.profile() == "smoke"
    insert_card(monkeypatch, "Tesla T4", 7, 5)
    assert runtime.device() == torch.device("cuda")
    assert runtime.profile() == "full"


@pytest.mark.parametrize(("text", "profile"), [("smoke", "smoke"), ("full", "full"), (" FULL\n", "full"), ("", "smoke"),
                                               ("  ", "smoke")])
def test_profile_from_the_environment(monkeypatch, text, profile):
    monkeypatch.setenv("STEELNB_PROFILE", text)
    assert runtime.profile() == profile


def test_the_environment_wins_over_the_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("STEELNB_PROFILE", "smoke")
    assert runtime.profile() == "smoke"


@pytest.mark.parametrize("text", ["fast", "smoke full", "1"])
def test_another_profile_is_refused(monkeypatch, text):
    monkeypatch.setenv("STEELNB_PROFILE", text)
    for call in (runtime.profile, runtime.describe):
        with pytest.raises(ValueError, match=f"^STEELNB_PROFILE is '{text}'; it can be smoke or full$"):
            call()


def test_home(monkeypatch, tmp_path):
    assert runtime.home() == tmp_path / ".cache" / "steelnb"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert runtime.home() == tmp_path / "xdg" / "steelnb"
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert runtime.home() == Path("/kaggle/working/steelnb")
    monkeypatch.setenv("STEELNB_HOME", "~/here")
    assert runtime.home() == tmp_path / "here"
    assert runtime.cache_folder() == tmp_path / "here" / "cache"
    assert runtime.runs_folder() == tmp_path / "here" / "runs"
    assert not (tmp_path / "here").exists()  # naming a folder does not make it


@pytest.mark.parametrize("name", ["STEELNB_HOME", "XDG_CACHE_HOME"])
def test_a_home_set_to_nothing_is_not_set(monkeypatch, tmp_path, name):
    monkeypatch.setenv(name, "")
    assert runtime.home() == tmp_path / ".cache" / "steelnb"


def test_describe_on_a_local_machine():
    lines = runtime.describe().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("local · cpu (")
    assert lines[0].endswith("profile smoke")
    assert torch.__version__ in lines[1]
    assert lines[1].endswith(f" · steelnb {__version__}")


def test_describe_tells_colab_without_a_gpu_where_to_switch_one_on(monkeypatch):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab_20260101")
    lines = runtime.describe().splitlines()
    assert lines[0].startswith("colab · cpu")
    assert lines[2].endswith("Runtime → Change runtime type → Hardware accelerator: T4 GPU → Save")
    insert_card(monkeypatch, "Tesla T4", 7, 5)
    assert runtime.describe().splitlines()[0] == "colab · cuda (Tesla T4) · profile full"
    assert "Runtime →" not in runtime.describe()


def test_describe_names_no_menu_of_colab_s_elsewhere(monkeypatch):
    assert "Runtime →" not in runtime.describe()
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert "Runtime →" not in runtime.describe()


def test_two_cards_are_explained(monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    insert_card(monkeypatch, "Tesla T4", 7, 5)
    for cards in (1, 2):
        monkeypatch.setattr(torch.cuda, "device_count", lambda cards=cards: cards)
        lines = runtime.describe().splitlines()
        assert lines[0] == "kaggle · cuda (Tesla T4) · profile full"
        assert len(lines) == 1 + cards
    assert lines[2].startswith("2 GPUs, of which a notebook uses one")
    command = shlex.split(lines[2][lines[2].index("!torchrun") :].partition(" (")[0])
    assert command[1:3] == ["--nproc-per-node", "2"]
    options = parser().parse_args(command[command.index("--") + 1 :])  # a command that there is
    assert (options.name, str(options.run)) == ("train", "FOLDER")


@pytest.mark.parametrize(("name", "major", "minor", "dtype"), [
    ("A100", 8, 0, torch.bfloat16), ("L4", 8, 9, torch.bfloat16), ("Tesla T4", 7, 5, torch.float16),
    ("Tesla P100", 6, 0, torch.float32),
])
def test_the_precision_is_what_the_card_multiplies_fastest(monkeypatch, name, major, minor, dtype):
    insert_card(monkeypatch, name, major, minor)
    assert runtime.precision(torch.device("cuda")) is dtype
    mixed = dtype is not torch.float32
    context = runtime.autocast(torch.device("cuda"))
    assert isinstance(context, torch.autocast) is mixed
    if mixed:
        assert context.fast_dtype == dtype


@pytest.mark.parametrize("on", ["cpu", "mps"])
def test_no_autocast_elsewhere(on):
    with runtime.autocast(torch.device(on)):
        assert not torch.is_autocast_enabled("cpu")
    assert isinstance(runtime.autocast(torch.device(on)), contextlib.nullcontext)


def test_drive_is_colab_s(monkeypatch):
    with pytest.raises(RuntimeError, match="only on Colab"):
        runtime.drive_folder()


def test_drive_is_mounted_and_has_a_folder_of_ours(monkeypatch, tmp_path):
    mounted = []
    drive = types.ModuleType("google.colab.drive")
    drive.mount = mounted.append
    colab = types.ModuleType("google.colab")
    colab.drive = drive
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    monkeypatch.setattr(runtime, "DRIVE", tmp_path / "drive")
    assert runtime.drive_folder() == tmp_path / "drive" / "MyDrive" / "steelnb"
    assert runtime.drive_folder().is_dir()
    assert mounted == [str(tmp_path / "drive")] * 2

    def refused(place):
        raise ValueError("mount failed")

    drive.mount = refused
    with pytest.raises(RuntimeError, match="allow the access"):
        runtime.drive_folder()


def test_a_home_of_nobody(monkeypatch):
    monkeypatch.setenv("STEELNB_HOME", "~nobody-of-this-name/here")
    with pytest.raises(ValueError, match=r"STEELNB_HOME is '~nobody-of-this-name/here': .* Name a folder by its"):
        runtime.home()


@pytest.mark.parametrize(("platform", "unit"), [("linux", 2**10), ("darwin", 2**20)])
def test_peak_memory_is_in_megabytes(monkeypatch, platform, unit):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(runtime.sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=300 * unit))
    assert runtime.peak_memory() == 300
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert math.isnan(runtime.peak_memory())


@pytest.mark.parametrize(("model", "threads"), [
    (dict(width=8, depth=3), 1), (dict(width=4), 1), (dict(width=16, depth=3), 3), ({}, 3), (dict(width="8"), 3),
    (dict(depth=99), 3),
])
def test_one_thread_for_a_small_network_on_a_cpu(model, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with contextlib.suppress(KeyError), runtime.threads_for(model, torch.device("cpu")):
            assert torch.get_num_threads() == threads
            raise KeyError
        assert torch.get_num_threads() == 3
        with runtime.threads_for(model, torch.device("meta")):
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
