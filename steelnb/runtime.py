"""The machine that the code runs on: platform, device, precision, profile, folders.  Taught in 00_start_here.

Environment variables: ``STEELNB_PROFILE`` (smoke or full), ``STEELNB_DATA`` (a data set),
``STEELNB_HOME`` (where caches and runs are kept).
"""

import contextlib
import importlib.util
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from steelnb import __version__

PROFILES = ("smoke", "full")
DRIVE = Path("/content/drive")
SMALL = 64  # most channels of a network that one thread trains as fast as several do: the smoke recipe's
COLAB_GPU = "Runtime → Change runtime type → Hardware accelerator: T4 GPU → Save"


def where() -> str:
    """"colab", "kaggle" or "local"."""
    if os.environ.get("KAGGLE_KERNEL_RUN_TYPE"):
        return "kaggle"
    if os.environ.get("COLAB_RELEASE_TAG") or _has("google.colab"):
        return "colab"
    return "local"


def device() -> torch.device:
    """The fastest device available: CUDA, then Apple's MPS, then the CPU.

    Raises RuntimeError for a CUDA card that this PyTorch was not built for, whose first kernel would fail.
    """
    if torch.cuda.is_available():
        built, card = torch.cuda.get_arch_list(), torch.cuda.get_device_capability()
        if not runs_on(card, built):
            raise RuntimeError(
                f"{torch.cuda.get_device_name()} has capability {card[0]}.{card[1]}, and this PyTorch "
                f"({torch.__version__}) has no code for it, only for {' '.join(built)}: use another accelerator (on "
                "Kaggle T4 × 2), install a PyTorch that has it (2.7 with CUDA 12.6 goes back to 5.0), or set "
                "CUDA_VISIBLE_DEVICES= to compute on the CPU"
            )
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def runs_on(card: tuple[int, int], built: list[str]) -> bool:
    """Whether a card of a capability runs code built for `built`, as `torch.cuda.get_arch_list` names it.

    Code for sm_75 runs on 7.5 and newer of 7.x, code for sm_90a on 9.0 only; compute_90 is compiled at run time for 9.0
    and all newer cards. Names of other manufacturers' cards are ignored.
    """
    known = [match.groups() for name in built if (match := re.fullmatch(r"(sm|compute)_(\d+)(\d)(\w?)", name))]
    for kind, major, minor, only in known:
        least = int(major), int(minor)
        if card == least or (not only and card > least and (kind == "compute" or card[0] == least[0])):
            return True
    return not known


def profile() -> str:
    """"smoke" (seconds on a CPU) or "full" (a GPU): ``STEELNB_PROFILE``, else full where there is a CUDA device.

    Raises ValueError for any other name.
    """
    chosen = os.environ.get("STEELNB_PROFILE", "").strip().lower() or ("full" if device().type == "cuda" else "smoke")
    if chosen not in PROFILES:
        raise ValueError(f"STEELNB_PROFILE is {chosen!r}; it can be {' or '.join(PROFILES)}")
    return chosen


def precision(on: torch.device) -> torch.dtype:
    """The fastest type on a device: bfloat16 on CUDA cards from Ampere on, float16 on older ones with tensor cores
    (Colab's T4; its gradients need a scaler), else float32."""
    if on.type != "cuda":
        return torch.float32
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float16 if torch.cuda.get_device_capability() >= (7, 0) else torch.float32


def autocast(on: torch.device) -> contextlib.AbstractContextManager:
    """Mixed precision if it is faster on the device, else nothing. Losses sum in float32 in both cases."""
    if (dtype := precision(on)) is torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(on.type, dtype)


def make_deterministic() -> None:
    """Makes CUDA's results repeatable to the last bit in this process: slower, and other operations raise an error.

    Changes nothing on a CPU. Call it before the first operation on the GPU.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)


def compiles(on: torch.device) -> bool:
    """Whether torch.compile is worthwhile: CUDA cards of capability 7.0 and newer, with Triton. Never on a CPU, where
    compiling takes longer than the trainings here."""
    return on.type == "cuda" and torch.cuda.get_device_capability(on) >= (7, 0) and _has("triton")


@contextlib.contextmanager
def threads_for(model: Mapping[str, int], on: torch.device) -> Iterator[None]:
    """One CPU thread while a small network trains, given as the arguments of `unet.UNet`; else PyTorch's number.

    With two threads it is hardly faster, on a busy machine ten times slower, and sums are rounded differently. With
    one, the same seed gives the same network on any number of cores.
    """
    before = torch.get_num_threads()
    width, depth = model.get("width", 64), model.get("depth", 4)
    if on.type == "cpu" and isinstance(width, int) and depth in range(9) and width * 2**depth <= SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def peak_memory() -> float:
    """Peak memory of this process so far, in MB; NaN on Windows, where Python has no such function."""
    try:
        import resource
    except ImportError:
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def home() -> Path:
    """The folder for caches and runs: ``STEELNB_HOME``, Kaggle's working folder, else ``~/.cache/steelnb``."""
    if chosen := os.environ.get("STEELNB_HOME"):
        try:
            return Path(chosen).expanduser()
        except RuntimeError as error:  # ~name of nobody
            raise ValueError(f"STEELNB_HOME is {chosen!r}: {error} Name a folder by its full path") from None
    if where() == "kaggle":
        return Path("/kaggle/working/steelnb")
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "steelnb"


def cache_folder() -> Path:
    """The folder for generated and decoded data; may be deleted at any time.

    In `home`; on Kaggle, whose working folder is saved with the notebook, in the machine's temporary folder.
    """
    if where() == "kaggle" and not os.environ.get("STEELNB_HOME"):
        return Path(tempfile.gettempdir()) / "steelnb" / "cache"
    return home() / "cache"


def runs_folder() -> Path:
    """The folder for the notebooks' trained runs."""
    return home() / "runs"


def drive_folder() -> Path:
    """This project's folder on Google Drive, mounted if necessary, for files that must outlive a session on Colab.

    Raises RuntimeError elsewhere, and if access to Drive is not granted.
    """
    if where() != "colab":
        raise RuntimeError("Google Drive can be mounted only on Colab; elsewhere set STEELNB_HOME to a folder")
    from google.colab import drive

    try:
        drive.mount(str(DRIVE))
    except Exception as error:  # google.colab raises several types, all for the same reason
        raise RuntimeError(f"Google Drive was not mounted ({error}): run the cell again and allow the access") from None
    folder = DRIVE / "MyDrive" / "steelnb"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def new_run(name: str) -> Path:
    """A run folder that does not exist yet: `runs_folder()`/name-date-time."""
    path = runs_folder() / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    while path.exists():
        path = path.with_name(path.name + "+")
    return path


def describe() -> str:
    """Machine, device, profile and versions in two lines; on Colab without a GPU also how to switch one on, with
    several GPUs how to use them all."""
    on = device()
    chip = torch.cuda.get_device_name() if on.type == "cuda" else f"{torch.get_num_threads()} threads"
    lines = [
        f"{where()} · {on.type} ({chip}) · profile {profile()}",
        f"Python {platform.python_version()} · torch {torch.__version__} · steelnb {__version__}",
    ]
    if where() == "colab" and on.type == "cpu":
        lines.append(f"No GPU: running the smoke profile. For a GPU: {COLAB_GPU}")
    if on.type == "cuda" and (cards := torch.cuda.device_count()) > 1:
        lines.append(f"{cards} GPUs, of which a notebook uses one. A training on all: "
                     f"!torchrun --nproc-per-node {cards} -m steelnb -- train --run FOLDER (09_hundred_hours)")
    return "\n".join(lines)


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False
