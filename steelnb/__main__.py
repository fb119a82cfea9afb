"""`python -m steelnb sample | train | predict | evaluate | audit`: the library from a terminal."""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import steelnb


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns 0, 1 for an input that cannot be used (one line on stderr), 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # After torchrun a `--` is needed (its own --run-path makes it stumble over --run), and may be passed on.
    options = parser().parse_args(arguments[1:] if arguments[:1] == ["--"] else arguments)
    options.progress = not options.quiet and sys.stderr.isatty()
    try:
        return options.command(options)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        if options.debug:
            raise
        print(f"steelnb {options.name}: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"steelnb {options.name}: stopped", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line, documented by its --help."""
    top = argparse.ArgumentParser("steelnb", description=steelnb.__doc__)
    top.add_argument("--version", action="version", version=steelnb.__version__)
    commands = top.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def command(name: str, run: Callable, summary: str) -> Callable:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(command=run)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.add_argument("--quiet", action="store_true", help="no progress bar")
        return sub.add_argument

    add = command("sample", sample, "Make a set of synthetic steel images with masks, in Severstal's layout.")
    add("out", metavar="OUT", type=Path, help="folder to make")
    add("--images", type=_at_least_one, default=64, metavar="N", help="how many images (default 64)")
    add("--seed", type=_not_negative, default=0, metavar="S", help="other seed, other steel (default 0)")
    add("--form", choices=("now", "2019"), default="now", help="which form of train.csv (default now)")
    add("--size", type=_size, default=(256, 1600), metavar="HxW", help="pixels (default 256x1600)")

    add = command("train", train, "Train a network, or go on where RUN left off; leaves RUN/weights.safetensors. "
        "Ctrl-C, SIGTERM or the end of the hours stop it cleanly: give the same command again to go on. "
        "On several GPUs: torchrun --nproc-per-node 2 -m steelnb -- train …")
    _data(add)
    add("--run", type=Path, required=True, metavar="RUN", help="folder of this run, new or to go on with")
    add("--recipe", default="smoke", metavar="NAME", help="smoke (default; minutes on a CPU), modern or original "
        "(want a GPU)")
    add("--set", type=_setting, action="append", default=[], metavar="NAME=VALUE",
        help="change a value of the recipe, such as batch=2 or learning_rate=1e-4; may be repeated")
    length = add.__self__.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=_at_least_one, metavar="N", help="instead of the recipe's number")
    length.add_argument("--steps", type=_at_least_one, metavar="N", help="stop after N optimizer steps")
    add("--hours", type=_hours, metavar="H", help="stop after H hours over all sessions, if it is not finished before")
    add("--session-hours", type=_hours, metavar="H", help="stop after H hours of this session (Colab, Kaggle: 11.5)")
    add("--checkpoint-seconds", type=_not_negative, default=60, metavar="S", help="between checkpoints (default 60)")
    add("--accept-changes", action="store_true", help="go on although recipe, seed, length, data or version differ "
        "from the run's")
    add("--seed", type=_not_negative, default=0, metavar="S", help="split, first weights and order (default 0)")
    add("--per-class", action="store_true", help="a mask a class instead of one for all defects")
    add("--groups", type=Path, metavar="CSV", help="ImageId,group: images that stay on one side (audit writes one)")

    add = command("predict", predict, "Segment images; leaves masks, overlays and predictions.csv in OUT.")
    add("--weights", type=Path, required=True, metavar="W", help="weights.safetensors, or the run folder it is in")
    add("--out", type=Path, required=True, metavar="OUT", help="folder for what is written")
    add("--tile", type=_at_least_one, metavar="PIXELS", help="side of a tile; smaller takes less memory")
    _operating_point(add)
    add("--probabilities", action="store_true", help="leave NAME_probability.png too, round(255 p)")
    add("--kaggle", metavar="FORM", help="leave submission.csv: now, 2019, or the path of Kaggle's "
        "sample_submission.csv, whose columns and images it then has")
    add("--raw", type=_size, metavar="HxW", help="files that are no images by their suffix are strips of HxW bytes")
    add("--resume", action="store_true", help="go on where the same command was stopped, or with more images")
    add("images", nargs="+", metavar="IMAGE", help="image files, folders of them, quoted patterns ('steel/**/*.jpg'), "
        "or strips of any length: .npy, uncompressed TIFF, raw bytes (--raw)")

    add = command("evaluate", evaluate, "Score a network on labelled images.")
    _data(add)
    add("--weights", type=Path, required=True, metavar="W", help="weights.safetensors, or the run folder it is in")
    add("--part", choices=("validation", "train", "all"), help="default: validation on the data it was trained on, "
        "all on other data")
    add("--choose", action="store_true", help="choose threshold, smallest defect and guard on half of the images and "
        "report on the other half what each gains, and flips")
    add("--alarms", type=_share, metavar="SHARE", help="with --choose: the best Dice on defective images with at most "
        "this share of clean ones raising an alarm, such as 0.1 (default: the best mean over all images, Kaggle's way)")
    _operating_point(add)
    add("--replicates", type=_not_negative, default=1000, metavar="N", help="of the bootstrap (default 1000; 0: none)")
    add("--json", action="store_true", help="print JSON instead of a table")
    add("--out", type=Path, metavar="FILE", help="write the JSON to this file as well; it must not be there yet")

    add = command("audit", audit, "Look through a data set for duplicates, contradicting labels, masks out of range "
        "and sides of a split that differ; leaves report.html, findings.json and groups.csv in OUT.")
    _data(add)
    add("--out", type=Path, required=True, metavar="OUT", help="folder for the report")
    add("--seed", type=_not_negative, default=0, metavar="S", help="of the split by image (default 0)")
    return top


def sample(options: argparse.Namespace) -> int:
    """Draws a set of synthetic steel; see --help."""
    from steelnb import synthetic

    folder = synthetic.write(
        options.out, options.images, seed=options.seed, shape=options.size, form=options.form,
        progress=options.progress,
    )  # fmt: skip
    print(f"{options.images} images of synthetic steel in {folder}")
    return 0


def train(options: argparse.Namespace) -> int:
    """Trains a network; see --help."""
    from steelnb import locate, runtime, training
    from steelnb.recipes import RECIPES

    if options.recipe not in RECIPES:
        raise ValueError(f"no recipe {options.recipe!r}; there are {', '.join(RECIPES)}")
    recipe = RECIPES[options.recipe].changed(per_class=options.per_class, **dict(options.set))
    data = locate.find(options.data, skip_missing=options.skip_missing, progress=options.progress)
    if options.groups:
        data = data.with_groups(options.groups)
    say = print if os.environ.get("RANK", "0") == "0" else lambda *_, **__: None  # one of torchrun's processes speaks
    say(data.describe(), runtime.describe(), sep="\n")
    history = training.train(
        data, options.run, recipe, epochs=options.epochs, steps=options.steps, hours=options.hours,
        session_hours=options.session_hours, seed=options.seed, checkpoint_seconds=options.checkpoint_seconds,
        accept_changes=options.accept_changes, progress=options.progress, report=partial(say, flush=True),
    )  # fmt: skip
    if len(history):
        say(f"weights of the best epoch: {options.run / 'weights.safetensors'}")
    return 0


def predict(options: argparse.Namespace) -> int:
    """Segments images and strips; 1 where one of them failed."""
    from steelnb import runtime, weights
    from steelnb.predict import predict_files

    point = _point(options)
    trained = weights.load(options.weights, runtime.device())
    try:
        outcome = predict_files(
            trained, options.images, options.out, tile=options.tile, point=point, flips=options.flips,
            probabilities=options.probabilities, raw=options.raw, kaggle=options.kaggle, resume=options.resume,
            progress=options.progress,
        )  # fmt: skip
    except KeyboardInterrupt:
        print(f"what is finished stays in {options.out}: the same command with --resume goes on", file=sys.stderr)
        raise
    for stem, share in outcome.written.items():
        print(f"{stem}: {share:.2%} of the pixels are defect" if share else f"{stem}: no defect")
    for reason in outcome.failed.values():
        print(f"steelnb predict: {reason}", file=sys.stderr)
    kept = f", {len(outcome.kept)} of them before" if outcome.kept else ""
    print(f"{len(outcome.written)} images segmented into {options.out}{kept} ({point})")
    return 1 if outcome.failed else 0


def evaluate(options: argparse.Namespace) -> int:
    """Prints scores of a network; see --help."""
    from steelnb import durable, locate, runtime, weights
    from steelnb.report import chosen, report

    point = _point(options)
    if options.choose and (options.flips or point != type(point)()):
        raise ValueError("--choose finds threshold, minimum area, guard and flips by itself: leave them out")
    if options.out and options.out.exists():
        raise ValueError(f"{options.out} is there already and would be overwritten: name another file")
    if options.alarms is not None and not options.choose:
        raise ValueError("--alarms says how --choose chooses: add --choose")
    trained = weights.load(options.weights, runtime.device())
    data = locate.find(options.data, skip_missing=options.skip_missing, progress=options.progress)
    shared = dict(replicates=options.replicates, progress=options.progress)
    if options.choose:
        found = chosen(trained, data, options.part, alarms=options.alarms, **shared)
    else:
        found = report(trained, data, options.part, point=point, flips=options.flips, **shared)
    text = json.dumps(found.to_dict(), allow_nan=False, indent=1, ensure_ascii=False)
    if options.out:
        durable.write(options.out, (text + "\n").encode())
    print(text if options.json else found.table())
    return 0


def audit(options: argparse.Namespace) -> int:
    """Looks through a data set; 1 where it holds an error."""
    from steelnb import locate
    from steelnb.audit import audit as look_through

    if (page := options.out / "report.html").exists():  # before the minutes, not after them
        raise ValueError(f"{page} is there already; name another folder, or delete this report")
    folder = options.data if options.data and Path(options.data).is_dir() else None
    source = folder or locate.find(options.data, skip_missing=options.skip_missing, progress=options.progress)
    found = look_through(source, seed=options.seed, skip_missing=options.skip_missing, progress=options.progress)
    page = found.write(options.out)
    print(found.described)
    for finding in found.findings[:20]:
        print(f"{finding.severity}: {finding.text}")
    if len(found.findings) > 20:
        print(f"… and {len(found.findings) - 20} more, in the report")
    print(f"report: {page}")
    return 0 if found.ok else 1


def _operating_point(add: Callable) -> None:
    add("--threshold", type=float, default=0.5, metavar="P", help="a pixel is defect above this probability "
        "(default 0.5)")
    add("--minimum-area", type=_not_negative, default=0, metavar="PIXELS", help="drop connected defects smaller than "
        "this (default 0)")
    add("--guard", type=float, default=0.0, metavar="P", help="call an image clean unless some of it is above this "
        "probability (default 0: no guard)")
    add("--flips", action="store_true", help="average over four flips of the image; four times the work")


def _point(options: argparse.Namespace):
    from steelnb.operating_point import OperatingPoint

    return OperatingPoint(options.threshold, options.minimum_area, options.guard)


def _data(add: Callable) -> None:
    add("--data", metavar="D", help="folder of a data set, `kaggle`, or `synthetic`; default: STEELNB_DATA, Kaggle's "
        "input, else synthetic")
    add("--skip-missing", action="store_true", help="leave out images without a label and labels without an image")


def _at_least_one(text: str) -> int:
    return _whole(text, 1)


def _not_negative(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not text.lstrip("-").isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
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


if __name__ == "__main__":
    sys.exit(main())
