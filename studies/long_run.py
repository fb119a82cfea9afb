"""Does the original's gap between training and validation open in a small copy of its hundred hours, and when?

Recipe `original` (Dice loss, SGD with momentum 0.99, batches of 2, mirrored and skewed geometry, no augmentation),
changed in its width alone: 4 instead of 64. Its data: every third image of SD-saliency-900 by name, without those that
have a near-duplicate; in Severstal's layout, where an ImageId is a hash, so that the original's split by row order
(80 : 20) is a random one. 200 epochs are about an hour on one thread, here in a dozen or so sessions of 3 to 6 minutes,
ended by SIGTERM, by SIGKILL and by the session's budget in turn. A third of the images, so that 200 epochs fit; 500
weights per training image (the original: 5,800). One seed: what holds for it is an example, not an estimate.

Arms: `original`; `flips`, the same with mirrored samples, 100 epochs; `uninterrupted`, the same as `original` in one
session, 20 epochs, whose history must be that of `original` to the last bit.

Prediction: the gap opens (Dice on the training part less that on the validation part at the last epoch, whole images,
eval mode, p > 1/2), but less than the original's 0.84 − 0.63 = 0.21, because the network is so narrow; flips halve it.
Decision rule: "opens" where the gap at the last epoch is 0.15 or more, "opens in part" from 0.05, else "does not open".
It opens at the first epoch from which validation loss less training loss, means over 5 epochs, stays above 0.05.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from steelnb.audit.duplicates import find_duplicates
from steelnb.data import dataset, rle
from steelnb.evaluation.metrics import dice
from steelnb.network.unet import UNet
from steelnb.runs.checkpoints import Checkpoints
from steelnb.training import batches
from steelnb.training.recipes import ORIGINAL, Recipe
from steelnb.training.validation import logits_and_mask
from studies import runner

HOURS = 1.8
SALIENCY = Path(__file__).resolve().parents[2] / "shared" / "data" / "sd_saliency_900"
PLACE = runner.LOCKS / "long_run"
ENDINGS = ("SIGTERM", "SIGKILL", "budget")


def cells() -> list[dict]:
    shared = {"seed": 0, "width": 4, "images": 300}
    return [{"arm": arm, "epochs": epochs, **shared}
            for arm, epochs in (("original", 200), ("uninterrupted", 20), ("flips", 100))]


def recipe(setting: dict) -> Recipe:
    return ORIGINAL.changed(model=ORIGINAL.model | {"width": setting["width"]}, flips=setting["arm"] == "flips")


def steel(images: int) -> dataset.SteelData:
    """`images` images, evenly spread by name, less those with a near-duplicate; made where they are missing."""
    folder = PLACE / f"data-{images}"
    if not (folder / "train.csv").exists():
        whole = dataset.read_dataset(SALIENCY)
        twins = {i for pair in find_duplicates(whole) for i in (pair.a, pair.b)}
        rows = []
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "train_images").mkdir(parents=True)
        for image_id in whole.images["ImageId"][:: len(whole) // images]:
            if image_id not in twins:
                name = hashlib.sha256(image_id.encode()).hexdigest()[:9] + ".png"
                Image.fromarray(whole.image(image_id)).save(folder / "train_images" / name)
                rows.append({"ImageId": name, "ClassId": 1, "EncodedPixels": rle.encode(whole.mask(image_id))})
        table = pd.DataFrame(rows).sort_values("ImageId")
        table.to_csv(folder / "train.csv.part", index=False)
        os.replace(folder / "train.csv.part", folder / "train.csv")
    return dataset.read_dataset(folder)


def run(setting: dict) -> dict:
    """Continues the run of this cell, session by session, until it is finished."""
    data, name = steel(setting["images"]), f"{setting['arm']}-{setting['epochs']}"
    run_folder = PLACE / name
    while not _finished(run_folder):
        _session(data.folder, run_folder, setting)
        _publish(run_folder, setting["arm"])
    ledger = pd.read_csv(run_folder / "sessions.csv")
    history = pd.read_csv(run_folder / "history.csv")
    state = Checkpoints(run_folder / "checkpoints").load()
    network = UNet(**recipe(setting).model)
    network.load_state_dict(state["model"])
    network.eval()
    training, validation = batches.training_and_validation_samples(
        data, recipe(setting).changed(flips=False), setting["seed"]
    )
    return {
        "sessions": len(ledger),
        "ended": ledger["ended"].value_counts().to_dict(),
        "hours": float(ledger["hours"].sum()),
        "best_epoch": int(history["epoch"][history["validation_dice"].argmax()]),
        "best_validation_dice": float(history["validation_dice"].max()),
        "train_loss": history["train_loss"].round(6).tolist(),
        "validation_loss": history["validation_loss"].round(6).tolist(),
        "validation_dice": history["validation_dice"].round(6).tolist(),
        "train_images_dice": _dices(network, training),
        "validation_images_dice": _dices(network, validation),
        "history_sha256": {str(n): _digest(history, n) for n in (20, setting["epochs"])},
        "weights_sha256": _hash(state["model"]),
    }


def _finished(folder: Path) -> bool:
    ledger = folder / "sessions.csv"
    return ledger.exists() and "finished" in pd.read_csv(ledger)["ended"].tolist()


def _session(data: Path, folder: Path, setting: dict) -> None:
    """One session in a process of its own, ended as its turn is; by SIGTERM also where this process is."""
    ledger = folder / "sessions.csv"
    number = len(pd.read_csv(ledger)) if ledger.exists() else 0
    ending, seconds = ENDINGS[number % 3], random.Random(number).uniform(180, 360)
    if setting["arm"] == "uninterrupted":
        ending, seconds = "none", 24 * 3600.0
    words = ["train", "--data", data, "--run", folder, "--recipe", "original", "--epochs", setting["epochs"], "--quiet",
             "--seed", setting["seed"], "--set", f"model={json.dumps(recipe(setting).model)}"]
    if setting["arm"] == "flips":
        words += ["--set", "flips=true"]
    if ending == "budget":
        words += ["--session-hours", f"{seconds / 3600:.4f}"]
    process = subprocess.Popen([sys.executable, "-m", "steelnb", *map(str, words)], stdout=subprocess.DEVNULL)
    before, stopped = signal.getsignal(signal.SIGTERM), []

    def stop(*_) -> None:  # no wait in here: the one below holds Popen's lock
        stopped.append(True)
        process.terminate()

    signal.signal(signal.SIGTERM, stop)
    try:
        process.wait(timeout=None if ending in ("budget", "none") else seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(getattr(signal, ending))
    finally:
        code = process.wait()
        signal.signal(signal.SIGTERM, before)
    if stopped:
        sys.exit(143)
    if code not in (0, 3, -signal.SIGKILL):  # 3: stopped, and can go on
        raise RuntimeError(f"the session ended with {code}")
    time.sleep(1)


def _publish(folder: Path, arm: str) -> None:
    """Ledger and history so far, beside the records; the ledger without what tells of the machine."""
    runner.RECORDS.mkdir(parents=True, exist_ok=True)
    pd.read_csv(folder / "sessions.csv").drop(columns=["process"]).to_csv(
        runner.RECORDS / f"long_run-{arm}-sessions.csv", index=False)
    if (folder / "history.csv").exists():
        shutil.copy(folder / "history.csv", runner.RECORDS / f"long_run-{arm}-history.csv")


def _dices(network: UNet, samples) -> list[float]:
    """Hard Dice of each image at p > 1/2."""
    found = []
    for index in range(len(samples)):
        logits, mask = logits_and_mask(network, samples, index)
        pair = torch.from_numpy(logits)[None] > 0, torch.from_numpy(mask)[None]
        found.append(round(float(dice(*pair, empty="one")), 5))
    return found


def _digest(history: pd.DataFrame, epochs: int) -> str:
    """Of the first epochs' rows, without the clock's."""
    return hashlib.sha256(history.drop(columns="seconds").head(epochs).to_csv(index=False).encode()).hexdigest()[:16]


def _hash(state: dict[str, torch.Tensor]) -> str:
    parts = [name.encode() + value.contiguous().numpy().tobytes() for name, value in sorted(state.items())]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def opens_at(train_loss, validation_loss, gap: float = 0.05, window: int = 5) -> int | None:
    """The first epoch from which validation loss less training loss, means over `window` epochs, stays above `gap`."""
    difference = pd.Series(np.subtract(validation_loss, train_loss)).rolling(window, min_periods=1).mean()
    below = np.flatnonzero(~(difference > gap))
    first = int(below[-1]) + 2 if len(below) else 1
    return first if first <= len(difference) else None


def progress() -> str:
    """Progress of arm `original`, from its sessions.csv and history."""
    files = [runner.RECORDS / f"long_run-original-{kind}.csv" for kind in ("sessions", "history")]
    if not all(file.exists() for file in files):
        return ""
    ledger, history = map(pd.read_csv, files)
    last, endings = history.iloc[-1], ledger["ended"].fillna("killed, or running now").value_counts().items()
    return (
        f"Arm `original` is in epoch {len(history) + 1} of {cells()[0]['epochs']} after {len(ledger)} sessions "
        f"({', '.join(f'{count} {how}' for how, count in endings)}) and {ledger['hours'].sum():.2f} h: training loss "
        f"{last['train_loss']:.3f}, validation loss {last['validation_loss']:.3f}, validation Dice "
        f"{last['validation_dice']:.3f}. No answer about the gap yet."
    )


def summary(records: pd.DataFrame) -> str:
    lines, by_arm = [], {row["arm"]: row for _, row in records.iterrows()}
    for arm, row in by_arm.items():
        train, validation = (np.array(row[f"{part}_images_dice"]) for part in ("train", "validation"))
        gap = train.mean() - validation.mean()
        rng = np.random.default_rng(0)
        means = [rng.choice(part, (2000, len(part))).mean(1) for part in (train, validation)]
        low, high = np.quantile(means[0] - means[1], (0.025, 0.975))
        epoch = opens_at(row["train_loss"], row["validation_loss"])
        lines.append(
            f"| {arm} | {row['epochs']} | {row['sessions']} | {train.mean():.3f} | {validation.mean():.3f} | "
            f"{gap:+.3f} ({low:+.3f} … {high:+.3f}) | {epoch or 'not'} | {row['best_epoch']}: "
            f"{row['best_validation_dice']:.3f} | `{row['weights_sha256'][:12]}` |"
        )
    answer = ""
    if "original" in by_arm:
        row = by_arm["original"]
        gap = np.mean(row["train_images_dice"]) - np.mean(row["validation_images_dice"])
        verdict = "opens" if gap >= 0.15 else "opens in part" if gap >= 0.05 else "does not open"
        ended = ", ".join(f"{count} {how}" for how, count in row["ended"].items())
        answer = (f"The gap {verdict}: {gap:+.3f} after {row['epochs']} epochs, in {row['sessions']} sessions "
                  f"({ended}); the original's was +0.21.")
        if "uninterrupted" in by_arm:
            same = by_arm["uninterrupted"]["history_sha256"]["20"] == row["history_sha256"]["20"]
            others = by_arm["uninterrupted"]["sessions"]
            answer += (f" Its first 20 epochs are {'' if same else 'not '}those of a run in "
                       f"{f'{others} sessions of other lengths' if others > 1 else 'one session'}, to the last bit.")
    head = ("| arm | epochs | sessions | Dice, training | Dice, validation | gap (95 %, over images) | open from epoch "
            "| best epoch: validation Dice | weights |\n|---|---|---|---|---|---|---|---|---|")
    return f"{answer}\n\n{head}\n" + "\n".join(lines)
