"""Packs a finished run's last weights for the wheel: `python tools/steel_weights.py RUN` writes
steelnb/network/files/KIND_synthetic_steel.safetensors, in float16, without the lists of images.

They are those of the last step, not of the best epoch: a schedule that has ended needs no choice.
"""

import sys
from pathlib import Path

from steelnb import storage
from steelnb.network import kinds
from steelnb.network.pretrained import SERIES, STEEL
from steelnb.network.weights import load_network, save_network
from steelnb.runs.checkpoints import Checkpoints

KEPT = ("version", "recipe", "seed", "steps", "data", "versions")
FILES = {"lite": STEEL, "unet": SERIES}  # by kind of network


def main(run: str) -> None:
    state = Checkpoints(Path(run) / "checkpoints").load()
    if state["step"] < state["about"]["steps"]:
        raise ValueError(f"{run}: after step {state['step']} of {state['about']['steps']}; let it finish first")
    tensors = {name: tensor.half() if tensor.is_floating_point() else tensor
               for name, tensor in state["model"].items()}
    about = {name: state["about"][name] for name in KEPT} | {"epoch": state["epoch"], "seconds": state["seconds"]}
    config = state["about"]["recipe"]["model"] | {"out_channels": len(state["model"]["head.bias"])}
    file = FILES[config.get("kind", "unet")]
    save_network(file, kinds.build(config), about, tensors)
    load_network(file)  # refuses what float16 could not hold
    content = file.read_bytes()
    print(f"{file.name}: {len(content):,} bytes, SHA-256 {storage.sha256(content)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
