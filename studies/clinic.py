"""Eight facts about masks and Dice: does each show, in under a minute, and does its remedy work?

Each cell provokes one fact with one seed, measures it, and measures it again with the remedy. Facts 1 and 4 need no
network: free logits, one a pixel, stand for one that can fit anything. The others use SD-saliency-900 (real steel): 3
and 6 its masks alone, 2, 5, 7 and 8 a plain U-Net (padding "same", width 8, depth 3, crops of 48) trained for seconds,
since each fact is about what is done with a network, not about how good it is.

1. unsure_labels (Bertels 2019). Raters agree on 100 pixels and mark each of 200 more with probability 0.25. Measured:
   the volume that soft Dice finds over the mean volume of the labels, less 1 (and with 0.6). Holds below −0.2.
   Remedy, cross entropy: within ±0.05.
2. threshold (Nordström 2022, RankSEG). A network trained with BCE. Measured: mean Dice gained over p > 1/2 by marking
   the k most probable pixels, k by the expected Dice 2Σp/(k + Σp). Holds above 0.005. Remedy, one threshold chosen on
   other images: gains 0.005 too.
3. count (blob loss, CC-Dice). Masks with two defects or more, the smallest left out while Dice stays ≥ 0.9. Measured:
   the share of defects left out. Holds above 0.2. Remedy, Dice of each defect in its own neighbourhood: below 0.8.
4. soft_labels (Wang 2023). An anti-aliased mask t. Measured: soft Dice loss of p = t less that of t at its best
   threshold. Holds above 0.01. Remedy, the semimetric |p − t| / (Σp + Σt): fits unsure pixels to within 0.02 of t.
5. batches. Measured: mean over batches of 8 of the pooled Dice, less the mean over images. Holds beyond ±0.02. Remedy,
   sums kept for each image: exactly 0.
6. resizing. Masks as class ids, 200 → 128 pixels, bilinear. Measured: share of their defect pixels with an id that the
   image does not have. Holds above 0.005. Remedy, nearest pixel: exactly 0.
7. gradient (Kervadec & de Bruijne 2023). Measured: 1 − R² of ∂Dice/∂p against a·mask + b, in an image, in mid-training.
   Holds below 1e-6. Remedy (that is: does the mask alone suffice?), training on Σp(a·mask + b) with a and b frozen:
   Dice of held-out images at p > 1/2 within ±0.02 of Dice's own.
8. tiny_batches. Batches of one crop. Measured: mean Dice gained by scoring with the statistics of 8 images at a time
   instead of the running ones. Holds above 0.02. Remedy, running statistics taken again over training crops: within
   0.02 of a network that saw the same pixels in batches of 8.

Decision rule: a fact *holds*, a remedy *works*, where the 95 % interval of the mean over seeds lies wholly within the
bound (10 seeds without a network, 5 with one). Predicted: all facts hold; all remedies work but those of 7 (a and b
move a hundredfold in training) and 8 (the noise of its gradients stays).
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from steelnb.evaluation.metrics import TOUCHING
from steelnb.evaluation.recorded import seed_interval
from steelnb.losses import LOSSES
from studies.plain import Part, chosen_threshold, dices, fitted, parts, probabilities

HOURS = 0.2
SIDE, SEEN, REPORTED = 48, 1600, 120  # of a crop; crops in a training; images reported on
KINDS = {"In": 1, "Pa": 2, "Sc": 3}  # class ids by the kind of SD-saliency's defects


def cells() -> list[dict]:
    quick = [{"fact": fact, "seed": seed} for fact in FACTS for seed in range(10) if fact in WITHOUT_NETWORK]
    return quick + [{"fact": fact, "seed": s} for s in range(5) for fact in FACTS if fact not in WITHOUT_NETWORK]


def run(setting: dict) -> dict:
    numbers = FACTS[setting["fact"]][0](setting["seed"])
    return {name: round(float(number), 12) for name, number in numbers.items()}


# ---- the facts: each returns `value`, `remedy`, and what explains them

def unsure_labels(seed: int) -> dict:
    found = {}
    for name in ("dice", "bce"):
        for chance in (0.25, 0.6):
            rng = np.random.default_rng(seed)
            truth = np.r_[np.ones(100), np.full(200, chance), np.zeros(700)]

            def draw(rng: np.random.Generator = rng, truth: np.ndarray = truth) -> Tensor:
                return torch.from_numpy(rng.random((16, 1, 1, 1000)) < truth)

            p = _free(lambda x, draw=draw, name=name: LOSSES[name](x.expand(16, 1, 1, -1), draw()), 1000)
            found[name, chance] = p.sum() / truth.sum() - 1
    return {"value": found["dice", 0.25], "remedy": found["bce", 0.25], "dice_at_0.6": found["dice", 0.6],
            "bce_at_0.6": found["bce", 0.6]}


def threshold(seed: int) -> dict:
    model, choose, report = _network(seed, "bce")
    p = probabilities(model, report.images)
    half, chosen = p > 0.5, chosen_threshold(model, choose)
    ranked = np.stack([ranked_mask(each) for each in p])
    scores = {name: dices(hard, report.masks).mean() for name, hard in
              (("half", half), ("ranked", ranked), ("chosen", p > chosen))}
    return {"value": scores["ranked"] - scores["half"], "remedy": scores["chosen"] - scores["half"],
            "dice": scores["half"], "threshold": chosen}


def ranked_mask(p: np.ndarray) -> np.ndarray:
    """The k most probable pixels, bool as `p`, with k of the largest 2·Σ(the k)/(k + Σp); see RankSEG."""
    order = np.argsort(-p, axis=None, kind="stable")
    total = np.cumsum(p.ravel()[order], dtype=np.float64)
    k = 1 + int(np.argmax(2 * total / (np.arange(1, p.size + 1) + total[-1])))
    mask = np.zeros(p.size, bool)
    mask[order[:k]] = True
    return mask.reshape(p.shape)


def count(seed: int) -> dict:
    left_out, by_defect, kept = [], [], []
    for mask in _resampled(parts(0)["report"], seed).masks:
        labels, n = ndimage.label(mask, TOUCHING)
        if n < 2:
            continue
        areas = np.bincount(labels.ravel(), minlength=n + 1)[1:]
        gone = np.cumsum(np.sort(areas))  # left out, smallest first: Dice = 2(A − gone) / (2A − gone)
        dropped = int((2 * (areas.sum() - gone) / (2 * areas.sum() - gone) >= 0.9).sum())
        prediction = mask & ~np.isin(labels, 1 + np.argsort(areas, kind="stable")[:dropped])
        left_out.append(dropped / n)
        kept.append(dices(prediction[None], mask[None])[0])
        by_defect.append(np.mean(dice_by_defect(prediction, labels, n)))
    return {"value": np.mean(left_out), "remedy": np.mean(by_defect), "dice": np.mean(kept), "images": len(kept)}


def dice_by_defect(prediction: np.ndarray, labels: np.ndarray, n: int) -> list[float]:
    """Dice of each of n labelled defects among the pixels that lie nearest to it."""
    nearest = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    region = labels[tuple(nearest)]
    both, predicted, true = (np.bincount(region[each], minlength=n + 1)[1:]
                             for each in (prediction & (labels > 0), prediction, labels > 0))
    return (2 * both / (predicted + true)).tolist()


def soft_labels(seed: int) -> dict:
    rng, masks = np.random.default_rng(seed), parts(0)["train"].masks
    mask = masks[rng.choice(np.flatnonzero(masks.mean((1, 2)) > 0.05))]
    t = torch.from_numpy(mask.reshape(25, 8, 25, 8).mean((1, 3)))
    unsure = (t > 0) & (t < 1)

    def soft(p: Tensor) -> float:
        return (1 - 2 * (p * t).sum() / (p.sum() + t.sum())).item()

    hard = min(soft((t > cut).double()) for cut in np.linspace(0, 0.95, 20))
    target = t[None, None]
    fits = {"dice": _free(lambda x: LOSSES["dice"](x, target), t.shape),
            "semimetric": _free(lambda x: (x.sigmoid() - target).abs().sum() / (x.sigmoid() + target).sum(), t.shape)}
    off = {name: float(np.abs(p - t.numpy())[unsure.numpy()].mean()) for name, p in fits.items()}
    return {"value": soft(t) - hard, "remedy": off["semimetric"], "dice_off": off["dice"], "unsure": int(unsure.sum())}


def batches(seed: int) -> dict:
    model, _, report = _network(seed, "dice_bce")
    p, order = probabilities(model, report.images) > 0.5, np.random.default_rng(seed).permutation(len(report.ids))
    each, true = 2 * (p & report.masks).sum((1, 2))[order], (p.sum((1, 2)) + report.masks.sum((1, 2)))[order]
    mean = np.mean(each / true)
    pooled = {n: np.mean([each[i : i + n].sum() / true[i : i + n].sum() for i in range(0, len(each), n)])
              for n in (2, 8, len(each))}
    kept = sum((each[i : i + 8] / true[i : i + 8]).sum() for i in range(0, len(each), 8)) / len(each)
    return {"value": pooled[8] - mean, "remedy": round(kept - mean, 12), "dice": mean, "by_2": pooled[2] - mean,
            "by_all": pooled[len(each)] - mean}


def resizing(seed: int) -> dict:
    report, found = _resampled(parts(0)["report"], seed), {}
    for name, way in (("value", Image.Resampling.BILINEAR), ("remedy", Image.Resampling.NEAREST)):
        wrong = labelled = 0
        for image_id, mask in zip(report.ids, report.masks, strict=True):
            ids = (KINDS[image_id[:2]] * mask).astype(np.uint8)
            small = np.asarray(Image.fromarray(ids).resize((128, 128), way))
            wrong, labelled = wrong + int((~np.isin(small, np.unique(ids))).sum()), labelled + int((small > 0).sum())
        found[name] = wrong / labelled
    return found


def gradient(seed: int) -> dict:
    residuals, sizes = [], []

    def watch(step: int, model: torch.nn.Module, logits: Tensor, mask: Tensor) -> None:
        if step % 100 == 50:
            p = logits.detach().double().sigmoid().requires_grad_()
            (1 - (2 * (p * mask).sum((1, 2, 3)) + 1) / ((p + mask).sum((1, 2, 3)) + 1)).sum().backward()
            for slope, t in zip(p.grad.flatten(1), mask.flatten(1), strict=True):
                if t.any() and not t.all():
                    means = torch.stack([slope[~t].mean(), slope[t].mean()])
                    left, all_of_it = (slope - means[t.long()]).square().sum(), (slope - slope.mean()).square().sum()
                    residuals.append((left / all_of_it).item())
                    sizes.append((means[0] - means[1]).item())

    model, _, report = _network(seed, "dice", watch)
    area = float(np.mean([m.mean() for m in parts(seed)["train"].masks])) * SIDE**2

    def frozen(logits: Tensor, mask: Tensor) -> Tensor:
        """Dice's slopes at a perfect answer, −1/V on the defect and 1/2V beside it… kept for the whole training."""
        return (logits.sigmoid() * (0.5 - mask.float())).sum((1, 2, 3)).mean() / area

    alone, _, _ = _network(seed, frozen)
    scores = [dices(probabilities(each, report.images) > 0.5, report.masks).mean() for each in (model, alone)]
    return {"value": max(residuals), "remedy": scores[1] - scores[0], "dice": scores[0],
            "slopes_move": max(sizes) / min(sizes)}


def tiny_batches(seed: int) -> dict:
    one, _, report = _network(seed, "dice_bce", batch=1)
    eight, _, _ = _network(seed, "dice_bce", batch=8)

    def score(model: torch.nn.Module, batch: int = 1) -> float:
        return float(dices(probabilities(model, report.images, batch) > 0.5, report.masks).mean())

    running, of_eight = score(one), score(eight)
    norms = [module for module in one.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # looking must not move the statistics
    batch_statistics = score(one.train(), 8)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over what comes
    train = parts(seed)["train"]
    rng = np.random.default_rng(seed)
    for _ in range(25):
        chosen = rng.choice(len(train.ids), 8, replace=False)
        probabilities(one, train.images[chosen], 8)
    again = score(one.eval())
    return {"value": batch_statistics - running, "remedy": again - of_eight, "dice": running, "dice_of_8": of_eight,
            "dice_again": again, "momentum": momenta[0]}


def _network(seed: int, loss: str | Callable, watch: Callable = lambda *_: None, batch: int = 4) -> tuple:
    """A network trained on SEEN crops, and the parts to choose and to report on."""
    part = parts(seed)
    function = LOSSES[loss] if isinstance(loss, str) else loss
    model = fitted(part["train"].images, part["train"].masks, seed, SEEN // batch, batch, SIDE, function, watch=watch)
    return model, part["choose"].some(REPORTED // 2), part["report"].some(REPORTED)


def _free(loss: Callable[[Tensor], Tensor], shape: int | tuple[int, int], steps: int = 600) -> np.ndarray:
    """The probabilities to which free logits go, float64 [shape]."""
    shape = (1, shape) if isinstance(shape, int) else tuple(shape)
    x = torch.zeros(1, 1, *shape, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([x], 0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()
        schedule.step()
    return x.detach().sigmoid()[0, 0].numpy()


def _resampled(part: Part, seed: int) -> Part:
    chosen = np.random.default_rng(seed).integers(len(part.ids), size=len(part.ids))
    return Part([part.ids[i] for i in chosen], part.images[chosen], part.masks[chosen])


# ---- what came out

FACTS = {  # fact: how; where it holds and where its remedy works, by the low and the high end of the interval
    "unsure_labels": (unsure_labels, lambda low, high: high < -0.2, lambda low, high: -0.05 < low <= high < 0.05),
    "threshold": (threshold, lambda low, high: low > 0.005, lambda low, high: low > 0.005),
    "count": (count, lambda low, high: low > 0.2, lambda low, high: high < 0.8),
    "soft_labels": (soft_labels, lambda low, high: low > 0.01, lambda low, high: high < 0.02),
    "batches": (batches, lambda low, high: low > 0.02 or high < -0.02, lambda low, high: low == high == 0),
    "resizing": (resizing, lambda low, high: low > 0.005, lambda low, high: low == high == 0),
    "gradient": (gradient, lambda low, high: high < 1e-6, lambda low, high: -0.02 < low <= high < 0.02),
    "tiny_batches": (tiny_batches, lambda low, high: low > 0.02, lambda low, high: low > -0.02),
}
WITHOUT_NETWORK = ("unsure_labels", "count", "soft_labels", "resizing")


def verdicts(records: pd.DataFrame) -> pd.DataFrame:
    """A row a fact: number and interval of fact and remedy, and both verdicts."""
    rows = []
    for fact, (_, holds, works) in FACTS.items():
        of = records[records["fact"] == fact]
        if of.empty:
            continue
        value, remedy = (seed_interval(of[column]) for column in ("value", "remedy"))
        said = {"holds": bool(holds(*value[1:])), "works": bool(works(*remedy[1:]))}
        seconds = of["cpu_seconds"].max()
        rows.append({"fact": fact, "seeds": len(of), "value": value, "remedy": remedy, "seconds": seconds} | said)
    return pd.DataFrame(rows)


def summary(records: pd.DataFrame) -> str:
    found = verdicts(records)
    said = []
    for column, what in (("holds", f"of {len(found)} facts hold by their rule"), ("works", "of their remedies work")):
        missing = ", ".join(found.loc[~found[column], "fact"])
        said.append(f"{found[column].sum()} {what}; not shown: {missing or 'none'}.")
    lines = [
        *said,
        "",
        "| fact | seeds | measured | verdict | with the remedy | verdict | dearest cell |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found.itertuples():
        told = ["{:.3g} [{:.3g}, {:.3g}]".format(*each) for each in (row.value, row.remedy)]
        told.insert(1, "holds" if row.holds else "not shown")
        told.append("works" if row.works else "not shown")
        lines.append(f"| {row.fact} | {row.seeds} | {' | '.join(told)} | {row.seconds:.0f} s |")
    return "\n".join(lines)
