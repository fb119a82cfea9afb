"""The ONNX graph of a network, built node by node for `onnx_export`."""

import numpy as np
import torch
from torch import nn

from steelnb.network import geometry, lite_unet
from steelnb.network.lite_unet import InvertedResidual, LiteUNet
from steelnb.network.unet import UNet

INPUT, OUTPUT = "windows", "logits"


class ExportError(RuntimeError):
    """The network cannot be exported, or the file's logits differ from PyTorch's. The message says why."""


def graph(onnx, model: UNet | LiteUNet, window: tuple[int, int] | None = None):
    """The network in ONNX's operators, a GraphProto; weights have their PyTorch names.

    onnx: the package. window: (h, w) of the only input size of the graph, one window at a time; None: any number, any
    size. Raises ExportError for a network or layer without a translation.
    """
    nodes, tensors = [], []
    state = {name: tensor.detach().float().cpu().numpy() for name, tensor in model.state_dict().items()}

    def node(kind: str, name: str, *inputs: str, **attributes) -> str:
        nodes.append(onnx.helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def constant(name: str, values: np.ndarray | list[int]) -> str:
        tensors.append(onnx.numpy_helper.from_array(np.asarray(values), name))
        return name

    def layer(module: nn.Module, name: str, x: str, output: str | None = None) -> str:
        weight = [constant(f"{name}.{part}", state[f"{name}.{part}"]) for part in ("weight", "bias", "running_mean",
                  "running_var") if f"{name}.{part}" in state]
        match module:
            case nn.Conv2d():
                attributes = dict(kernel_shape=module.kernel_size, strides=module.stride, group=module.groups)
                return node("Conv", output or name, x, *weight, pads=2 * module.padding, **attributes)
            case nn.ZeroPad2d():
                left, right, top, bottom = module.padding
                ends = constant(f"{name}.ends", np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
                return node("Pad", name, x, ends)
            case nn.ReLU6():
                ends = [constant(f"{name}.{end}", np.float32(end)) for end in (0, 6)]
                return node("Clip", name, x, *ends)
            case nn.Sequential():
                return block(module, name, x)
            case nn.Identity():
                return x
            case nn.ConvTranspose2d():
                return node("ConvTranspose", name, x, *weight, kernel_shape=module.kernel_size, strides=module.stride)
            case nn.BatchNorm2d():
                return node("BatchNormalization", name, x, *weight, epsilon=module.eps)
            case nn.ReLU():
                return node("Relu", name, x)
        raise ExportError(f"{name}: {type(module).__name__} has no translation to ONNX here")

    def block(modules: nn.Sequential, name: str, x: str) -> str:
        for index, module in enumerate(modules):
            x = layer(module, f"{name}.{index}", x)
        return x

    def crop(skip: str, x: str, level: int) -> str:
        name = f"crop.{level}"
        if window:  # both sizes known: constants, since not every runtime can compute them
            met = [geometry.levels(n, model.depth, cut)[::-1][level] for n in window]
            ends = [constant(f"{name}.start", [at.start for at in met]),
                    constant(f"{name}.end", [at.start + at.up for at in met])]
            return node("Slice", name, skip, *ends, axes)
        if model.crop == "exact":  # a constant crop: at a size that is not exact, the Concat then fails
            start = exact[level]
            ends = [constant(f"{name}.start", [start, start]), constant(f"{name}.end", [-start, -start])]
            return node("Slice", name, skip, *ends, axes)
        outer, inner = (node("Shape", f"{name}.{part}", of, start=2) for part, of in (("outer", skip), ("inner", x)))
        room = node("Sub", f"{name}.room", outer, inner)
        if model.crop == "ceil":
            room = node("Add", f"{name}.up", room, constant(f"{name}.one", [1, 1]))
        start = node("Div", f"{name}.start", room, constant(f"{name}.two", [2, 2]))
        return node("Slice", name, skip, start, node("Add", f"{name}.end", start, inner), axes)

    def unet() -> str:
        skips, x = [], INPUT
        for level, modules in enumerate(model.encoder):
            x = node("MaxPool", f"pool.{level}", x, kernel_shape=[2, 2], strides=[2, 2]) if level else x
            x = block(modules, f"encoder.{level}", x)
            skips.append(x)
        skips.pop()
        for level in reversed(range(model.depth)):
            x, skip = layer(model.up[level], f"up.{level}", x), skips.pop()
            skip = skip if model.padding == "same" else crop(skip, x, level)
            x = block(model.decoder[level], f"decoder.{level}", node("Concat", f"joined.{level}", skip, x, axis=1))
        return x

    def residual(module: InvertedResidual, name: str, x: str) -> str:
        y = x if isinstance(module.expand, nn.Identity) else block(module.expand, f"{name}.expand", x)
        y = block(module.project, f"{name}.project", block(module.depthwise, f"{name}.depthwise", y))
        return node("Add", f"{name}.sum", x, y) if module.adds else y

    def lite() -> str:
        mean, deviation = (constant(name, np.float32(getattr(lite_unet, name))) for name in ("MEAN", "DEVIATION"))
        images = node("Div", "images", node("Sub", "shifted", INPUT, mean), deviation)
        x, skips, twice = block(model.encoder.stem, "encoder.stem", images), [images], [1.0, 1.0, 2.0, 2.0]
        for index, module in enumerate(model.encoder.blocks):
            x = residual(module, f"encoder.blocks.{index}", x)
            if index in lite_unet.SKIPS:
                skips.append(x)
        scales = constant("twice", np.array(twice, np.float32))
        for level, modules in enumerate(model.decoder):
            up = node("Resize", f"up.{level}", x, "", scales, mode="nearest", nearest_mode="floor",
                      coordinate_transformation_mode="asymmetric")
            x = block(modules, f"decoder.{level}", node("Concat", f"joined.{level}", up, skips.pop(), axis=1))
        return x

    if isinstance(model, UNet):
        axes, cut = constant("axes", [2, 3]), "floor" if model.crop == "floor" else "ceil"
        exact = [level.start for level in geometry.levels(geometry.input_size(1, model.depth), model.depth)][::-1]
        x = unet()
    elif isinstance(model, LiteUNet):
        x = lite()
    else:
        raise ExportError(f"{type(model).__name__} has no translation to ONNX here: export the network inside it")
    layer(model.head, "head", x, OUTPUT)

    def value(name: str, channels: int, *sides: str | int):
        shape = [1 if window else "N", channels, *sides]
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    inputs, outputs = [value(INPUT, model.config["in_channels"], *window or "hw")], model.config["out_channels"]
    sides = [output_side(model, n) for n in window] if window else ["h_out", "w_out"]
    return onnx.helper.make_graph(nodes, "unet", inputs, [value(OUTPUT, outputs, *sides)], tensors)


def output_side(model: torch.nn.Module, side: int) -> int:
    """Output pixels of the network along an axis of a window of `side` pixels."""
    return side if model.padding == "same" else geometry.output_size(side, model.depth)
