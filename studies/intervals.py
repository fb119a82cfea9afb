"""Does the bootstrap cover? An interval of 95 % should hold the true score in 95 of 100 samples of n images.

A plain U-Net (padding "same", width 8, depth 3; 600 steps of AdamW on crops of 64) learns from a fifth of a data set
and scores the other four fifths, 720 images. Those scores are a population whose truth is known. Samples of n images
are drawn from it, with replacement, and each method builds its interval from the sample alone.

- Scores: mean Dice of defective images; Dice of all pixels pooled; mean Dice of all images with empty = 1 (synthetic
  steel, half of it clean); the paired gain in mean Dice from p > 1/2 to p > 0.3.
- Methods: "library" is what `evaluation.scores` reported before this study (Poisson weights, percentiles; "widened"
  took its place by the rule below); "percentile" resamples as usual; "widened" is the library's, its percentiles moved
  out to those that make an interval of a normal mean exact (Hesterberg 2015, section 3.3.3: replace z by t and 1/n by
  1/(n − 1)); "t" is the score ± t standard errors; "bootstrap-t" and "BCa" as in Efron & Tibshirani 1993, chapters 14
  and 12.

Prediction: the library's intervals cover 84 to 88 % at n = 7, 88 to 91 % at 10, 92 to 93 % at 18 and 25, and 94 to 95 %
from 50 on, less for pooled pixels, which a few large defects decide. "widened" is right within 2 points from n = 10 on.

Decision: where the library's coverage is under 93 % at some n, averaged over populations, the method that is at or
above 93 % at most n takes its place in `evaluation.scores`; among equals (within one point) the narrower, then the
simpler. An n at which none reaches 93 % gets a mark beside its intervals.
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats

from steelnb.data import dataset, splits, synthetic
from steelnb.network.unet import UNet
from studies.plain import SHARED, fitted

SIZES = (7, 10, 18, 25, 50, 180)
METHODS = ("library", "percentile", "widened", "t", "bootstrap-t", "BCa")
LEVEL, REPLICATES, BLOCK = 0.95, 1000, 50
HOURS = 0.1


def cells() -> list[dict]:
    return [{"population": name, "seed": seed, "samples": 4000}
            for seed in range(3) for name in ("sd_saliency_900", "synthetic")]


def run(setting: dict) -> dict:
    images, masks, training = population(setting["population"], setting["seed"])
    held_out = np.flatnonzero(~training)
    model = fitted(images[training], masks[training], setting["seed"])
    sums = counts(model, images[held_out], masks[held_out])
    found = []
    for score, (top, bottom) in scores(sums).items():
        for n in SIZES:
            found += coverage(top, bottom, n, setting["samples"], setting["seed"], score)
    dice = scores(sums)["dice"]
    return {"images": len(held_out), "clean": int((sums["true"] == 0).sum()),
            "dice": [round(value, 4) for value in (dice[0][:, 0] / np.maximum(dice[1][:, 0], 1)).tolist()],
            "coverage": found}


# ---- the population

def population(name: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images uint8 [N, H, W], masks bool [N, H, W], and which ones are to train on, bool [N]."""
    with tempfile.TemporaryDirectory() as folder:
        place = SHARED / name
        if name == "synthetic":
            place = synthetic.write_dataset(Path(folder) / name, 900, shape=(128, 400), seed=seed, progress=False)
        data = dataset.read_dataset(place, progress=False)
        ids = data.images["ImageId"].tolist()
        images, masks = np.stack([data.image(i) for i in ids]), np.stack([data.mask(i) for i in ids])
        return images, masks, np.isin(ids, splits.by_image(data, 0.8, seed).train)


def counts(model: UNet, images: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
    """Pixels of each image, int [N]: true; predicted and both at p > 1/2, and at p > 0.3 (predicted_low, both_low)."""
    rows = []
    with torch.inference_mode():
        for image, mask in zip(images, masks, strict=True):
            p = model(torch.from_numpy(image[None, None] / np.float32(255)))[0, 0].sigmoid().numpy()
            hard, low = p > 0.5, p > 0.3
            rows.append((mask.sum(), hard.sum(), (hard & mask).sum(), low.sum(), (low & mask).sum()))
    names = ("true", "predicted", "both", "predicted_low", "both_low")
    return dict(zip(names, np.array(rows).T, strict=True))


def scores(sums: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Numerators and denominators of each score, float [N, 1]; their sums' ratio is the score of a sample."""
    true, defective = sums["true"], sums["true"] > 0

    def dice(suffix: str) -> np.ndarray:
        total = sums["predicted" + suffix] + true
        return np.divide(2.0 * sums["both" + suffix], total, out=np.ones(len(true)), where=total > 0)

    some = np.ones(defective.sum())
    found = {
        "dice": (dice("")[defective], some),
        "pooled": (2.0 * sums["both"][defective], (sums["predicted"] + true)[defective].astype(float)),
        "gain": ((dice("_low") - dice(""))[defective], some),
    }
    if not defective.all():
        found["empty = 1"] = (dice(""), np.ones(len(true)))
    return {name: (top[:, None], bottom[:, None]) for name, (top, bottom) in found.items()}


# ---- intervals

def coverage(top: np.ndarray, bottom: np.ndarray, n: int, samples: int, seed: int, score: str) -> list[dict]:
    """How often each method's interval from n units holds the population's ratio, and how wide it is."""
    truth, rng = top.sum() / bottom.sum(), np.random.default_rng([seed, n])
    tally = {method: np.zeros(3) for method in METHODS}
    for block in range(samples // BLOCK):
        drawn = rng.integers(len(top), size=(BLOCK, n))
        found = intervals(top[drawn, 0], bottom[drawn, 0], seed=1000 * seed + block)
        for method, (low, high) in found.items():
            tally[method] += (low > truth).sum(), (high < truth).sum(), np.minimum(high - low, 2).sum()
    done = samples // BLOCK * BLOCK
    return [{"score": score, "n": n, "method": method, "covered": round(1 - (above + below) / done, 5),
             "above": above / done, "below": below / done, "width": round(width / done, 5)}
            for method, (above, below, width) in tally.items()]


def intervals(top: np.ndarray, bottom: np.ndarray, seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Each method's interval for the ratio of sums, from samples [R, n] of both: lows, highs [R].

    The Poisson weights are those of `evaluation.scores.Scores` with that seed.
    """
    n = top.shape[1]
    tail = (1 - LEVEL) / 2
    draws = [np.random.default_rng([seed, unit]).poisson(1.0, REPLICATES) for unit in range(n)]
    poisson = np.array(draws, float)
    usual = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), REPLICATES).T.astype(float)
    value = top.sum(1) / bottom.sum(1)
    error = standard_error(top, bottom, np.ones((n, 1)))[:, 0]
    t = stats.t.ppf(1 - tail, n - 1)
    outer = widened_tail(n)

    ratios = _divided(top @ poisson, bottom @ poisson)
    found = {"library": np.nanquantile(ratios, [tail, 1 - tail], axis=1),
             "widened": np.nanquantile(ratios, [outer, 1 - outer], axis=1),
             "t": np.stack([value - t * error, value + t * error])}
    ratios = _divided(top @ usual, bottom @ usual)
    found["percentile"] = np.nanquantile(ratios, [tail, 1 - tail], axis=1)
    errors = standard_error(top, bottom, usual)
    with np.errstate(divide="ignore", invalid="ignore"):
        studentised = (ratios - value[:, None]) / errors  # ±inf where all resampled units are alike
    studentised = np.sort(np.where(np.isnan(studentised), 0, studentised), axis=1)
    places = [round(q * (REPLICATES - 1)) for q in (1 - tail, tail)]
    with np.errstate(invalid="ignore"):
        ends = value - np.nan_to_num(studentised[:, places].T * error, posinf=np.inf, neginf=-np.inf)
    found["bootstrap-t"] = ends
    found["BCa"] = _bca(top, bottom, value, np.sort(ratios, axis=1), tail)
    return {method: tuple(found[method]) for method in METHODS}


def widened_tail(n: int) -> float:
    """The percentile, as a share, that takes the place of 2.5 % (Hesterberg 2015, section 3.3.3)."""
    return float(stats.norm.cdf(stats.t.ppf((1 - LEVEL) / 2, n - 1) * np.sqrt(n / (n - 1))))


def standard_error(top: np.ndarray, bottom: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of the ratio of weighted sums, by its linear part: samples [R, n], weights [n, B] that add up to n → [R, B]."""
    n = top.shape[1]
    above, below = top @ weights, bottom @ weights
    ratio = _divided(above, below)
    square = (top**2) @ weights - 2 * ratio * ((top * bottom) @ weights) + ratio**2 * ((bottom**2) @ weights)
    return _divided(np.sqrt(np.maximum(square, 0) * n / (n - 1)), below)


def _bca(top: np.ndarray, bottom: np.ndarray, value: np.ndarray, ordered: np.ndarray, tail: float) -> np.ndarray:
    less = ((ordered < value[:, None]).mean(1) + (ordered <= value[:, None]).mean(1)) / 2
    shift = stats.norm.ppf(np.clip(less, 1 / REPLICATES, 1 - 1 / REPLICATES))
    without = _divided(top.sum(1, keepdims=True) - top, bottom.sum(1, keepdims=True) - bottom)
    off = without.mean(1, keepdims=True) - without
    speed = _divided((off**3).sum(1), 6 * (off**2).sum(1) ** 1.5)
    speed = np.nan_to_num(speed)
    ends = []
    for z in stats.norm.ppf([tail, 1 - tail]):
        share = stats.norm.cdf(shift + (shift + z) / (1 - speed * (shift + z)))
        ends.append(np.take_along_axis(ordered, np.rint(share * (REPLICATES - 1)).astype(int)[:, None], 1)[:, 0])
    return np.stack(ends)


def _divided(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


# ---- what came out

def table(records: pd.DataFrame) -> pd.DataFrame:
    """A row per population, score, n and method: mean coverage, width, and the least coverage over seeds."""
    rows = [{"population": cell.population, "seed": cell.seed} | row for cell in records.itertuples()
            for row in cell.coverage]
    grouped = pd.DataFrame(rows).groupby(["population", "score", "n", "method"], sort=False)
    return grouped.agg(covered=("covered", "mean"), least=("covered", "min"), width=("width", "mean"),
                       seeds=("seed", "nunique")).reset_index()


def summary(records: pd.DataFrame) -> str:
    found = table(records)
    mean = found.pivot_table(index="n", columns="method", values="covered")[list(METHODS)]
    width = found.pivot_table(index="n", columns="method", values="width")
    library, reaching = mean["library"], (mean >= 0.93).sum()
    top = reaching.max()
    best = min((m for m in METHODS if reaching[m] == top), key=lambda m: (width[m].mean().round(3), METHODS.index(m)))
    under = [n for n in SIZES if library[n] < 0.93]
    marked = [n for n in SIZES if mean.loc[n, best] < 0.93]
    said = [
        f"The library's 95 % intervals cover {', '.join(f'{library[n]:.0%} (n = {n})' for n in SIZES)}; "
        f"under 93 % at n = {', '.join(map(str, under)) or 'none'}.",
        f"By the rule **{best}** takes their place: {', '.join(f'{mean.loc[n, best]:.0%}' for n in SIZES)}, "
        f"{width.loc[SIZES[0], best] / width.loc[SIZES[0], 'library']:.2f} times as wide at n = 7; "
        f"a mark at n = {', '.join(map(str, marked)) or 'none'}.",
    ]
    each = found[(found["method"] == best) & (found["covered"] < 0.93)]
    if len(each):
        where = [f"{row.score} of {row.population} at n = {row.n}: {row.covered:.0%}" for row in each.itertuples()]
        said.append(f"Taken one by one, {best} stays under 93 % for {'; '.join(where)}.")
    lines = ["| population | score | n | " + " | ".join(METHODS) + " |", "|---|---|---|" + "---|" * len(METHODS)]
    for (name, score, n), rows in found.groupby(["population", "score", "n"], sort=False):
        by = rows.set_index("method")
        told = [f"{by.covered[m]:.1%} ({by.width[m]:.2f})" for m in METHODS]
        lines.append(f"| {name} | {score} | {n} | " + " | ".join(told) + " |")
    n = int(records["samples"].iloc[0])
    note = (f"Coverage (mean width) over {found['seeds'].max()} networks a population and {n} samples each: a standard "
            f"error of {np.sqrt(0.05 * 0.95 / n / found['seeds'].max()):.2%} from the drawing alone.")
    return "\n".join([*said, "", note, "", *lines])
