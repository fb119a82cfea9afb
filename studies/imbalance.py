"""At which share of defect pixels does BCE rank the pixels, and when does it speak?

Crops of 48 × 48 of SD-saliency-900 (shrunk by 2) with a mean share of defect of 1, 3, 6, 12 or 25 % (within 20 % of
that), each between half and twice it: 300 to learn from, 150 to choose a threshold on, 300 to report. A U-Net of width
4 and depth 2 (padding "same") learns by AdamW (rate 1e-2 falling to 0, batches of 4) in 960 steps. It ranks from the
step at which average precision on *report* reaches half of what the arm `dice` ends with at this share and seed; it
speaks from the step at which Dice at p > 1/2 reaches half of what `dice` ends with. Steps looked at: 0, 20, 60, 120,
240, 480, 960.

Arms: `bce` as it is; `prior`, the head's bias starting at the logit of the share (Lin et al. 2017, section 3.3);
`weighted`, defect pixels weighing (1 − share) / share; `focal`; `dice`.

Prediction: at the end all arms are within 0.02 of `dice` in average precision at every share. BCE ranks by step 120
at every share, and speaks later than it ranks, the later the rarer: by 60 at 25 %, after 240 at 1 %. A prior start
makes it rank sooner and not speak sooner. Weighting makes it speak at once and costs Dice at p > 1/2 in the end.
Decision rule: "BCE cannot learn at this share" where its average precision at the end is behind `dice` by more than
0.02 with the 95 % interval over seeds wholly below 0; "it is silent, not blind" where it ranks at a step at which it
does not speak yet. An arm is a cure where its Dice at p > 1/2 at step 120 is above `bce`'s with the interval above 0,
and its Dice at the end is not more than 0.02 below.
"""

import base64

import numpy as np
import pandas as pd
import torch

from steelnb.losses import LOSSES
from studies import compare, steel

HOURS = 0.3
LOOKED = (0, 20, 60, 120, 240, 480, 960)
ARMS = ("bce", "dice", "prior", "weighted", "focal")
SHARES = (0.06, 0.01, 0.25, 0.03, 0.12)


def cells() -> list[dict]:
    def grid(arms, shares, seeds) -> list[dict]:
        return [{"share": share, "arm": arm, "seed": seed} for seed in seeds for share in shares for arm in arms]

    return [*grid(ARMS[:2], SHARES[:3], range(3)), *grid(ARMS[2:], SHARES[:3], range(3)),
            *grid(ARMS, SHARES[3:], range(3)), *grid(ARMS, SHARES, range(3, 5))]


def run(setting: dict) -> dict:
    share, arm, parts = setting["share"], setting["arm"], steel.parts("saliency", setting["share"])
    bce = LOSSES["bce"]
    loss = {
        "prior": bce,
        "weighted": lambda logits, mask: bce(logits, mask, positive_weight=(1 - share) / share),
    }.get(arm, LOSSES.get(arm))
    curve, maps = [], {}
    shown = int(torch.argsort(parts.report.masks.flatten(1).sum(1))[len(parts.report.masks) // 2])

    def watch(step: int, network) -> None:
        if step not in LOOKED:
            return
        numbers = steel.measured(network, parts.choose, parts.report)
        del numbers["image_dices"]
        scores = steel.logits(network, parts.report)
        p = 1 / (1 + np.exp(-scores.astype(float)))
        curve.append({"step": step, "mean_p": round(float(p.mean()), 5), **numbers})
        if setting["seed"] == 0:
            maps[str(step)] = base64.b64encode(np.rint(255 * p[shown]).astype(np.uint8).tobytes()).decode()

    network = steel.train(loss, parts.train, LOOKED[-1], setting["seed"], watch=watch,
                          bias=float(np.log(share / (1 - share))) if arm == "prior" else None)
    numbers = steel.measured(network, parts.choose, parts.report)
    if maps:
        crops = (parts.report.images[shown].flatten(), 255 * parts.report.masks[shown].flatten().to(torch.uint8))
        maps |= {name: base64.b64encode(crop.numpy().tobytes()).decode()
                 for name, crop in zip(("image", "mask"), crops, strict=True)}
    return numbers | {"curve": curve} | ({"maps": maps} if maps else {})


def curves(records: pd.DataFrame) -> pd.DataFrame:
    """A row per cell and step."""
    return pd.DataFrame([{**{name: row[name] for name in ("share", "arm", "seed")}, **point}
                         for _, row in records.iterrows() for point in row["curve"]])


def since(points: pd.DataFrame, measure: str, level: float) -> float:
    """The first of the steps looked at from which a mean curve stays at `level` or above; infinite if it never does."""
    mean = points.groupby("step")[measure].mean()
    below = mean.index[mean < level]
    after = mean.index if below.empty else mean.index[mean.index > below[-1]]
    return float(after[0]) if len(after) else float("inf")


def summary(records: pd.DataFrame) -> str:
    points, lines = curves(records), []
    verdicts, cures = {}, {arm: [] for arm in ("prior", "weighted", "focal", "dice")}
    for share, rows in points.groupby("share"):
        if not {"bce", "dice"} <= set(rows["arm"]):
            continue
        end = rows[rows["step"] == LOOKED[-1]].set_index(["arm", "seed"])
        aims = {name: end.loc["dice"][name].mean() / 2 for name in ("ap", "dice_half")}
        for arm in [arm for arm in ARMS if arm in set(rows["arm"])]:
            of, at = rows[rows["arm"] == arm], end.loc[arm]
            ranks, speaks = (since(of, name, aims[name]) for name in aims)
            at_120 = of[of["step"] == 120].set_index("seed")["dice_half"]
            gap = compare.over_seeds(at["ap"], end.loc["dice"]["ap"])
            if arm == "bce":
                blind = gap.mean < -compare.SAME and gap.high < 0
                verdicts[share] = "cannot learn" if blind else "silent, not blind" if ranks < speaks else "learns"
            else:
                early = compare.over_seeds(at_120, rows[(rows["arm"] == "bce") & (rows["step"] == 120)]
                                           .set_index("seed")["dice_half"])
                late = (at["dice_half"] - end.loc["bce"]["dice_half"]).mean()
                if early.low > 0 and late >= -compare.SAME:
                    cures[arm].append(f"{share:.0%}")
            lines.append(
                f"| {share:.0%} | `{arm}` | {len(at)} | {at_120.mean():.3f} | {compare.mean_range(at['ap'])} | "
                f"{'–' if arm == 'dice' else gap} | {compare.mean_range(at['dice_half'])} | "
                f"{compare.mean_range(at['dice_chosen'])} | {ranks:g} | {speaks:g} |"
            )
    if not lines:
        return "No answer yet: no share has both `bce` and `dice`."
    told = "; ".join(f"{share:.0%}: {verdict}" for share, verdict in verdicts.items())
    cured = "; ".join(f"`{arm}` at {', '.join(shares)}" for arm, shares in cures.items() if shares) or "none"
    head = ("| share | arm | seeds | Dice at p > ½, step 120 | AP at the end | against `dice` (95 %, seeds) | "
            "Dice at p > ½ | at the chosen threshold | ranks from step | speaks from step |\n" + "|---" * 10 + "|")
    fewest = records[records["arm"].isin(("bce", "dice"))].groupby(["share", "arm"]).size().min()
    provisional = f"Provisional, {fewest} of 3 seeds: " if fewest < 3 else ""
    answer = f"{provisional}BCE by share of defect: {told}.\nCures (speak sooner, cost nothing at the end): {cured}."
    return "\n".join([answer, "", head, *lines])


def figure(records: pd.DataFrame):
    """Average precision and Dice over steps at 6 % defect, above the probability maps of `bce` and `dice`."""
    import matplotlib.pyplot as plt

    points = curves(records)
    points = points[points["share"] == 0.06]
    drawn = [arm for arm in ("bce", "dice") if "maps" in records and arm in set(points["arm"])]
    made, axes = plt.subplots(1 + len(drawn), len(LOOKED), figsize=(10, 2 + 1.5 * len(drawn)), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for place, (name, label) in enumerate((("ap", "average precision"), ("dice_half", "Dice at p > ½"))):
        axis = made.add_subplot(1 + len(drawn), 2, 1 + place)
        for arm, rows in points.groupby("arm"):
            mean = rows.groupby("step")[name].mean()
            axis.plot(mean.index, mean, label=arm)
        axis.set(xlabel="step", ylabel=label, xscale="symlog", ylim=(0, 1))
    axis.legend(fontsize=7)
    for line, arm in enumerate(drawn, 1):
        of = records[(records["arm"] == arm) & (records["share"] == 0.06) & (records["seed"] == 0)]
        for axis, step in zip(axes[line], LOOKED, strict=True):
            for maps in of["maps"].dropna():
                pixels = np.frombuffer(base64.b64decode(maps[str(step)]), np.uint8).reshape(steel.SIDE, steel.SIDE)
                axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
                axis.set_title(f"{arm}, step {step}", fontsize=7)
    return made
