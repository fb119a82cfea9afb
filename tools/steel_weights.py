"""Packs a run's weights for the wheel: `python tools/steel_weights.py RUN` writes
steelnb/network/files/lite_synthetic_steel.safetensors, in float16, without the lists of images.

The run: `python -m steelnb sample steel --images 2000 --seed 17`, then `python -m steelnb train --data steel --run RUN
--recipe pretrained --set start=imagenet --set epoch_samples=800 --set scoring=0.06 --steps N`.
"""

import sys
from pathlib import Path

from steelnb import storage
from steelnb.network.pretrained import STEEL
from steelnb.network.weights import load_network, save_network

KEPT = ("version", "recipe", "seed", "steps", "data", "epoch", "scores", "versions")


def main(run: str) -> None:
    trained = load_network(run)
    tensors = {name: tensor.half() if tensor.is_floating_point() else tensor
               for name, tensor in trained.model.state_dict().items()}  # fmt: skip
    save_network(STEEL, trained.model, {name: trained.metadata[name] for name in KEPT}, tensors)
    load_network(STEEL)  # refuses what float16 could not hold
    content = Path(STEEL).read_bytes()
    print(f"{STEEL.name}: {len(content):,} bytes, SHA-256 {storage.sha256(content)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
