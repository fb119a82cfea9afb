"""README's picture, assets/steel_to_mask.png: synthetic steel, the smoke recipe four times as long."""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch
from PIL import Image

from steelnb import runs
from steelnb.data import sources
from steelnb.evaluation import metrics
from steelnb.figures import plots
from steelnb.network import weights
from steelnb.training import batches
from steelnb.training.recipes import SMOKE
from steelnb.training.validation import logits_and_mask

RECIPE = SMOKE.changed(epochs=24)  # four times the smoke recipe's
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    plots.use_style()
    data = sources.open_dataset("synthetic", progress=False)
    with tempfile.TemporaryDirectory() as folder:
        runs.train(data, Path(folder) / "run", RECIPE, progress=False)
        trained = weights.load_network(Path(folder) / "run")
    _, held_out = batches.training_and_validation_samples(data, RECIPE, seed=0)
    results = [logits_and_mask(trained.model, held_out, index) for index in range(len(held_out))]
    dice = [metrics.dice((p > 0)[None], m[None], empty="skip").item() for p, m in results]
    defective = sorted((i for i, (_, mask) in enumerate(results) if mask.any()), key=lambda i: -dice[i])
    shown = {"best": defective[0], "median": defective[len(defective) // 2], "worst": defective[-1]}
    figure = plots.panel({
        f"{name}, Dice {dice[i]:.2f}":
            (held_out.cache[held_out.items[i].image_id], results[i][0][0] > 0, results[i][1][0])
        for name, i in shown.items()
    })
    colours = {"found": plots.HIT, "missed": plots.MISS, "false alarm": plots.FALSE_ALARM}
    figure.legend(handles=[Patch(color=colour, label=name) for name, colour in colours.items()], ncols=3,
                  loc="outside lower left")
    path = ROOT / "assets" / "steel_to_mask.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    size, mean = path.stat().st_size // 1000, np.nanmean(dice)
    print(f"{path.relative_to(ROOT)}: {size} KB, Dice {mean:.2f} on {len(defective)} images")


if __name__ == "__main__":
    main()
