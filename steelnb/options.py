"""The command line: every command with its options, and the checks of their values."""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import steelnb
from steelnb import EXIT_STOPPED

MOST = 10**9  # largest whole number accepted: larger ones are typing errors
LARGEST_SEED = 2**63 - 1  # accepted by torch


def parser() -> argparse.ArgumentParser:
    """The command line, documented by its --help."""
    top = argparse.ArgumentParser("steelnb", description=steelnb.__doc__)
    top.add_argument("--version", action="version", version=steelnb.__version__)
    commands = top.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def command(name: str, summary: str) -> Callable:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.add_argument("--quiet", action="store_true", help="no progress bar")
        return sub.add_argument

    add = command("sample", "Make a set of synthetic steel images with masks, in Severstal's layout.")
    add("out", metavar="OUT", type=_path, help="folder to create")
    add("--images", type=_at_least_one, default=64, metavar="N", help="number of images (default 64)")
    add("--seed", type=_seed, default=0, metavar="S", help="seed of the drawing (default 0)")
    add("--form", choices=("now", "2019"), default="now", help="which form of train.csv (default now)")
    add("--size", type=_size, default=(256, 1600), metavar="HxW", help="pixels (default 256x1600)")

    add = command("train", "Train a network, or resume the run in RUN; writes RUN/weights.safetensors. "
        "Ctrl-C, SIGTERM or the end of the hours stop it cleanly: run the same command again to resume. "
        f"Exit code 0: finished; {EXIT_STOPPED}: stopped like that (0 under torchrun, which treats others as crashes); "
        "1: an error. "
        "On several GPUs: torchrun --nproc-per-node 2 -m steelnb -- train …")
    _data(add)
    add("--run", type=_path, required=True, metavar="RUN", help="folder of this run, new or to be resumed")
    add("--recipe", metavar="NAME", help="smoke (default; minutes on a CPU), pretrained (from pretrained weights), "
        "fast, modern or original (for a GPU); a resumed run keeps its own")
    add("--set", type=_setting, action="append", default=[], metavar="NAME=VALUE",
        help="change a value of the recipe, such as batch=2 or learning_rate=1e-4; may be repeated")
    length = add.__self__.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=_at_least_one, metavar="N", help="number of epochs (default: the recipe's)")
    length.add_argument("--steps", type=_at_least_one, metavar="N", help="stop after N optimizer steps")
    add("--hours", type=_hours, metavar="H", help="stop after H hours over all sessions, unless finished earlier")
    add("--session-hours", type=_hours, metavar="H", help="stop after H hours of this session (Colab, Kaggle: 11.5)")
    add("--checkpoint-seconds", type=_not_negative, default=60, metavar="S", help="between checkpoints (default 60)")
    add("--accept-changes", action="store_true", help="resume although recipe, seed, length, data or version differ "
        "from the run's")
    add("--seed", type=_seed, default=0, metavar="S", help="for split, initial weights and order (default 0)")
    add("--deterministic", action="store_true", help="bit-identical results on a GPU too; slower")
    add("--per-class", action="store_true", help="one mask per class instead of one for all defects")
    add("--ignore-copies", action="store_true", help="do not search for images that show the same steel (by default "
        "they stay on one side of the split)")
    add("--groups", type=_path, metavar="CSV", help="ImageId,group: images that stay on one side (audit writes one)")

    add = command("predict", "Segment images; writes masks, overlays and predictions.csv into OUT.")
    add("--weights", type=_path, metavar="W", help="weights.safetensors, or the run folder it is in; default: those "
        "that come with steelnb, trained on synthetic steel")
    add("--out", type=_path, default=Path("masks"), metavar="OUT", help="output folder (default masks)")
    add("--tile", type=_at_least_one, metavar="PIXELS", help="side of a tile; smaller ones need less memory")
    add("--margin", type=_not_negative, metavar="PIXELS", help="surroundings around a tile for a network with padding "
        "(default: all pixels that can change its output); fewer take less time and cause seams")
    _operating_point(add)
    add("--probabilities", action="store_true", help="write NAME_probability.png too, round(255 p)")
    add("--kaggle", type=_named, metavar="FORM", help="write submission.csv: now, 2019, or the path of Kaggle's "
        "sample_submission.csv, whose columns and images it then has")
    add("--raw", type=_size, metavar="HxW", help="read files without an image suffix as strips of HxW bytes")
    add("--resume", action="store_true", help="continue a stopped command, or add more images")
    add("images", nargs="+", type=_path, metavar="IMAGE", help="image files, folders of them, quoted patterns "
        "('steel/**/*.jpg'), or strips of any length: .npy, uncompressed TIFF, raw bytes (--raw)")

    add = command("evaluate", "Score a network on labelled images.")
    _data(add)
    add("--weights", type=_path, required=True, metavar="W", help="weights.safetensors, or the run folder it is in")
    add("--part", choices=("validation", "train", "all"), help="default: validation on the data it was trained on, "
        "all on other data")
    add("--choose", action="store_true", help="choose threshold, minimum area and guard on half of the images and "
        "report the gain of each, and of flips, on the other half")
    add("--alarms", type=_share, metavar="SHARE", help="with --choose: the best Dice on defective images with at most "
        "this share of clean ones raising an alarm, such as 0.1 (default: the best mean over all images, as Kaggle)")
    _operating_point(add)
    add("--replicates", type=_not_negative, default=1000, metavar="N", help="of the bootstrap (default 1000; 0: none)")
    add("--json", action="store_true", help="print JSON instead of a table")
    add("--out", type=_path, metavar="FILE", help="write the JSON to this file as well; it must not exist yet")

    add = command("audit", "Check a data set for duplicates, contradictory labels, masks out of range and sides "
        "of a split that differ; writes report.html, findings.json and groups.csv into OUT.")
    _data(add)
    add("--out", type=_path, required=True, metavar="OUT", help="folder for the report")
    add("--seed", type=_seed, default=0, metavar="S", help="of the split by image (default 0)")
    add("--against", type=_path, metavar="D", help="folder of another data set: count images that have a copy there")

    add = command("convert", "Convert labelled images (COCO, LabelMe, CVAT, YOLO, mask files) to Severstal's "
        "layout: train.csv and train_images/.")
    _data(add)
    add("--out", type=_path, required=True, metavar="OUT", help="folder to create")

    add = command("export", "Write a network as one ONNX file, checked against PyTorch (extra `onnx`).")
    add("--weights", type=_path, required=True, metavar="W", help="weights.safetensors, or the run folder it is in")
    add("--out", type=_path, required=True, metavar="FILE", help="NAME.onnx; it must not exist yet")
    add("--size", type=_size, metavar="HxW", help="for a single window of HxW output pixels, all shapes fixed, as "
        "OpenCV 4's cv2.dnn needs it (default: any number of windows of any size)")
    return top


def _operating_point(add: Callable) -> None:
    add("--threshold", type=float, default=0.5, metavar="P", help="a pixel is defect above this probability "
        "(default 0.5)")
    add("--minimum-area", type=_not_negative, default=0, metavar="PIXELS", help="drop connected defects smaller than "
        "this (default 0)")
    add("--guard", type=float, default=0.0, metavar="P", help="call an image clean unless some of it is above this "
        "probability (default 0: no guard)")
    add("--flips", action="store_true", help="average over the four flips of the image; takes four times as long")


def _data(add: Callable) -> None:
    add("--data", type=_named, metavar="D", help="folder of a data set, `kaggle`, or `synthetic`; default: "
        "STEELNB_DATA, Kaggle's input, else synthetic")
    add("--skip-missing", action="store_true", help="leave out images without a label and labels without an image")
    add("--mask-threshold", type=_gray, metavar="GRAY", help="of mask files with softened edges: a pixel is defect "
        "above this, 0 to 254")
    add("--nested", choices=("hole", "filled"), help="meaning of a polygon inside another one of its label (COCO's own "
        "tools fill it)")
    add("--format", choices=("severstal", "masks", "coco", "labelme", "cvat", "yolo"), help="which labels to read if a "
        "folder has several kinds")


def _named(text: str) -> str:
    if not text.strip():  # would mean the current folder; most likely an unset shell variable
        raise argparse.ArgumentTypeError("an empty name: write . for the current folder")
    return text


def _path(text: str) -> Path:
    return Path(_named(text))


def _at_least_one(text: str) -> int:
    return _whole(text, 1)


def _not_negative(text: str) -> int:
    return _whole(text, 0)


def _gray(text: str) -> int:
    return _whole(text, 0, 254)


def _seed(text: str) -> int:
    return _whole(text, 0, LARGEST_SEED)


def _whole(text: str, least: int, most: int = MOST) -> int:
    digits = text.removeprefix("-")
    if not digits.isdecimal() or len(digits) > 30 or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number of at least {least}")
    if int(text) > most:
        raise argparse.ArgumentTypeError(f"{text} is more than {most}")
    return int(text)


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 < hours < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of hours")
    return hours


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share, from 0 to 1")
    return share


def _setting(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as batch=2")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # a word, such as sgd


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = map(int, text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 256x1600") from None
    return height, width
