"""`python -m steelnb sample | train | predict | evaluate | audit | convert | export`: the library from a terminal."""

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from steelnb import EXIT_STOPPED
from steelnb.options import parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns 0, 1 for unusable input (one line on stderr), 130 after Ctrl-C, and EXIT_STOPPED for a
    training that stopped before its end.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a console with another code page shows ? for ×
        sys.stdout.reconfigure(errors="replace")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # torchrun needs a `--` (it would read --run as its own --run-path), which may be passed on.
    options = parser().parse_args(arguments[1:] if arguments[:1] == ["--"] else arguments)
    options.progress = not options.quiet and sys.stderr.isatty()
    try:
        return COMMANDS[options.name](options)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        if options.debug:
            raise
        print(f"steelnb {options.name}: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"steelnb {options.name}: stopped", file=sys.stderr)
        return 130


def one_line(error: Exception) -> str:
    """The message of an error in one line; errors of the operating system without their number."""
    if isinstance(error, FileExistsError | NotADirectoryError) and error.filename:
        return f"{error.filename}: a file is where a folder is needed; choose another folder"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def run_sample(options: argparse.Namespace) -> int:
    """Draws a set of synthetic steel; see --help."""
    from steelnb.data import digests, synthetic

    try:
        alone = not options.out.exists() or not any(options.out.iterdir())
        folder = synthetic.write_dataset(
            options.out, options.images, seed=options.seed, shape=options.size, form=options.form,
            progress=options.progress,
        )
        if alone:  # else the list would hold files of others
            digests.write(folder)
    except OSError as error:  # the error of a full disk has no file name
        raise OSError(error.errno, error.strerror or str(error), str(options.out)) from error
    print(f"{options.images} images of synthetic steel in {folder}")
    return 0


def run_train(options: argparse.Namespace) -> int:
    """Trains a network; see --help."""
    from steelnb import runs, runtime
    from steelnb.data import sources
    from steelnb.runs.identity import recipe_name_of
    from steelnb.training.recipes import DEFAULT, RECIPES

    previous = recipe_name_of(options.run)
    name = options.recipe or (previous if previous in RECIPES else DEFAULT)
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    if options.deterministic:
        runtime.make_deterministic()
    changes = dict(options.set) | ({"per_class": True} if options.per_class else {})
    recipe = RECIPES[name].changed(**changes)
    data = sources.open_dataset(options.data, **_reading(options))
    if options.groups:
        data = data.with_groups(options.groups)
    say = print if os.environ.get("RANK", "0") == "0" else lambda *_, **__: None  # one of torchrun's processes prints
    say(data.describe(), runtime.describe(), sep="\n")
    history = runs.train(
        data, options.run, recipe, epochs=options.epochs, steps=options.steps, hours=options.hours,
        session_hours=options.session_hours, seed=options.seed, checkpoint_seconds=options.checkpoint_seconds,
        accept_changes=options.accept_changes, ignore_copies=options.ignore_copies, progress=options.progress,
        report=partial(say, flush=True),
    )
    if len(history):
        say(f"weights of the best epoch: {options.run / 'weights.safetensors'}")
    return 0 if history.attrs["ended"] == "finished" or "RANK" in os.environ else EXIT_STOPPED


def run_predict(options: argparse.Namespace) -> int:
    """Segments images and strips; returns 1 if one of them failed."""
    from steelnb import runtime, storage
    from steelnb.data.images import left_out
    from steelnb.network import inference, pretrained, weights
    from steelnb.prediction.files import predict_files

    point = _point(options)
    trained = weights.load_network(options.weights or pretrained.STEEL, runtime.device())
    if options.margin is not None:
        trained.model.grid = inference.grid_with_margin(trained.model, options.margin)
    try:
        outcome = predict_files(
            trained, options.images, options.out, tile=options.tile, point=point, flips=options.flips,
            probabilities=options.probabilities, raw=options.raw, kaggle=options.kaggle, resume=options.resume,
            progress=options.progress,
        )
    except (KeyboardInterrupt, storage.StorageError):
        print(f"finished images stay in {options.out}: the same command with --resume goes on", file=sys.stderr)
        raise
    for stem, share in outcome.written.items():
        print(f"{stem}: {share:.2%} of the pixels are defect" if share else f"{stem}: no defect")
    for reason in [*outcome.failed.values(), *left_out(*(p for p in map(Path, options.images) if p.is_dir()))]:
        print(f"steelnb predict: {reason}", file=sys.stderr)
    kept = f", {len(outcome.kept)} of them before" if outcome.kept else ""
    kept += f", in addition to {len(outcome.earlier)} of earlier commands" if outcome.earlier else ""
    print(f"{len(outcome.written)} images segmented into {options.out}{kept} ({point})")
    known = trained.metadata.get("data", {})
    if trained.model.config["out_channels"] > 1 and known.get("class_names"):
        titles = zip(known["classes"], known["class_names"], strict=True)
        print("classes: " + ", ".join(f"{class_id} {name}" for class_id, name in titles))
    return 1 if outcome.failed else 0


def run_evaluate(options: argparse.Namespace) -> int:
    """Prints scores of a network; see --help."""
    from steelnb import runtime, storage
    from steelnb.data import sources
    from steelnb.evaluation import report
    from steelnb.network import weights

    point = _point(options)
    if options.choose and (options.flips or point != type(point)()):
        raise ValueError("--choose sets threshold, minimum area, guard and flips: leave these options out")
    if options.out:
        _check_new(options.out)  # before minutes of work
    if options.alarms is not None and not options.choose:
        raise ValueError("--alarms is an option of --choose: add --choose")
    trained = weights.load_network(options.weights, runtime.device())
    data = sources.open_dataset(options.data, **_reading(options))
    shared = dict(replicates=options.replicates, progress=options.progress)
    if options.choose:
        found = report.choose_operating_point(trained, data, options.part, alarms=options.alarms, **shared)
    else:
        found = report.evaluate(trained, data, options.part, point=point, flips=options.flips, **shared)
    text = json.dumps(found.to_dict(), allow_nan=False, indent=1, ensure_ascii=False)
    print(text if options.json else found.table())
    if options.out:
        storage.write_file(options.out, (text + "\n").encode())
    return 0


def run_audit(options: argparse.Namespace) -> int:
    """Checks a data set; returns 1 if there is an error."""
    from steelnb.audit.audit import audit
    from steelnb.audit.page import check_free
    from steelnb.data import sources

    check_free(options.out)  # before minutes of work
    named = options.data if options.data is not None else sources.named()
    folder = named if named and Path(named).is_dir() else None
    source = folder or sources.open_dataset(options.data, **_reading(options))
    found = audit(source, seed=options.seed, against=options.against, **_reading(options))
    page = found.write(options.out)
    if found.headline:
        print(found.headline)
    print(found.described)
    for finding in found.findings[:20]:
        print(f"{finding.severity}: {finding.text}")
    if len(found.findings) > 20:
        print(f"… and {len(found.findings) - 20} more, in the report")
    print(f"report: {page}")
    return 0 if found.ok else 1


def run_convert(options: argparse.Namespace) -> int:
    """Converts a data set to Severstal's layout; see --help."""
    from steelnb.data import conversion, sources

    if options.out.exists():  # before minutes of work
        raise ValueError(f"{options.out} already exists; choose another name")
    data = sources.open_dataset(options.data, **_reading(options))
    print(data.describe())
    print(f"{len(data)} images with {len(data.rows)} masks in {conversion.convert(data, options.out).folder}")
    return 0


def run_export(options: argparse.Namespace) -> int:
    """Writes a network as ONNX; see --help."""
    from steelnb.network import weights
    from steelnb.prediction.onnx_export import to_onnx

    _check_new(options.out)
    print(to_onnx(weights.load_network(options.weights), options.out, options.size))
    return 0


def _reading(options: argparse.Namespace) -> dict:
    """The options of `open_dataset` and `read_dataset`."""
    return {name: getattr(options, name) for name in ("skip_missing", "mask_threshold", "nested", "format", "progress")}


def _check_new(path: Path) -> None:
    if path.exists():
        raise ValueError(f"{path} already exists; choose another file")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path.parent} is not a folder: create it, or choose another file")


def _point(options: argparse.Namespace):
    from steelnb.evaluation.operating_point import OperatingPoint

    return OperatingPoint(options.threshold, options.minimum_area, options.guard)


COMMANDS = {
    "sample": run_sample, "train": run_train, "audit": run_audit, "evaluate": run_evaluate, "predict": run_predict,
    "convert": run_convert, "export": run_export,
}

if __name__ == "__main__":
    sys.exit(main())
