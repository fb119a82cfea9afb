"""A pretended CUDA device with real numbers, for tests on a machine that has none.

A tensor "on cuda" tells Python that it lies on cuda:0, while for PyTorch's C++ it lies on the CPU: so autograd,
autocast, the gradient scaler and the optimizers compute with any build of PyTorch. What CUDA refuses is refused here
too: one operation on tensors of both devices, `.numpy()`, pinning, pickling, a CPU generator for a CUDA tensor.

It knows nothing of memory (see tests/gpu/test_memory.py), of kernels that lack a type or are not deterministic, of the
list of operations that CUDA's autocast runs in half precision, nor of speed.
"""

import contextlib
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple
from unittest import mock

import torch
from torch.optim import optimizer as optimizers
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils as grouping
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


class Card(NamedTuple):
    """A GPU as PyTorch describes it; `precision` is what `runtime.precision` should choose on it."""

    name: str
    capability: tuple[int, int]
    memory: int  # bytes
    precision: torch.dtype


CARDS = {
    "T4": Card("Tesla T4", (7, 5), 15_828_320_256, torch.float16),
    "A100": Card("NVIDIA A100-SXM4-40GB", (8, 0), 42_298_834_944, torch.bfloat16),
    "P100": Card("Tesla P100-PCIE-16GB", (6, 0), 17_059_545_088, torch.float32),
}

# A CPU tensor of one number goes along with CUDA tensors in most operations, but not in these.
STRICT = ("aten._fused", "aten.cat", "aten.stack", "aten._foreach_copy", "aten.convolution", "aten.gather",
          "aten.scatter", "aten.masked_select", "aten._amp_", "aten.native_batch_norm")
# CPU tensors may index a CUDA one: it is copied, and the GPU waits.
INDEXING = ("aten.index.Tensor", "aten.index_put", "aten._index_put_impl_", "aten._unsafe_index")
# The way back of a sort: some versions of PyTorch make its zeros in C++, where that believes the gradient to be.
ON_THE_WAY_BACK = ("aten.scatter.src",)
# What needs the result on the CPU makes it wait for the GPU.
WAITING = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal", "aten.is_nonzero")


class OnCard(torch.Tensor):
    """A tensor that says it is on cuda:0; `inner` holds its numbers, on the CPU."""

    waits = 0  # how often the CPU had to wait for the card

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "OnCard":
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=CPU, requires_grad=False,
        )

    def __init__(self, inner: torch.Tensor) -> None:
        assert not isinstance(inner, OnCard)
        self.inner = inner.detach()

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    @classmethod
    def __torch_dispatch__(cls, operation, types, arguments=(), options=None):
        return computed(operation, arguments, options or {})

    def get_device(self) -> int:
        return 0

    def __repr__(self, **_) -> str:
        return f"{self.inner!r} on the pretended {CUDA}"

    def __deepcopy__(self, memo: dict) -> torch.Tensor:
        copy = OnCard(self.inner.clone())
        if isinstance(self, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy, self.requires_grad)
        else:
            copy.requires_grad_(self.requires_grad)
        memo[id(self)] = copy
        return copy

    def __reduce_ex__(self, protocol: int):
        raise RuntimeError("a tensor on cuda:0 is pickled: copy it to the CPU first")

    def numpy(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __array__(self, *_, **__):
        return self.numpy()

    def tolist(self) -> list:
        OnCard.waits += 1
        return self.inner.tolist()


def computed(operation, arguments: tuple, options: dict):
    """The operation on the numbers behind pretended tensors; what it returns is on the card again."""
    name = str(operation)
    tensors = [leaf for leaf in tree_leaves((arguments, options)) if isinstance(leaf, torch.Tensor)]
    others = [tensor for tensor in tensors if not isinstance(tensor, OnCard)]
    if others and name != "aten.copy_.default":
        if name.startswith(INDEXING) and isinstance(arguments[0], OnCard):
            OnCard.waits += 1
        elif name.startswith(ON_THE_WAY_BACK) and torch._C._current_graph_task_id() != -1:
            pass
        elif refused := [list(tensor.shape) for tensor in others if tensor.dim() or name.startswith(STRICT)]:
            raise RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 "
                               f"and cpu: {name}, {refused} on the CPU")
    indices = arguments[1] if name.startswith("aten.index.") else ()
    OnCard.waits += name.startswith(WAITING) or any(i is not None and i.dtype == torch.bool for i in indices)
    found = operation(*tree_map(_inner, arguments), **tree_map(_inner, options))
    if name == "aten.copy_.default":
        return arguments[0]
    found = tree_map(lambda leaf: OnCard(leaf) if isinstance(leaf, torch.Tensor) else leaf, found)
    return return_and_correct_aliasing(operation, arguments, options, found)


def _inner(leaf):
    return leaf.inner if isinstance(leaf, OnCard) else leaf


class ToCuda(torch.autograd.Function):
    @staticmethod
    def forward(context, tensor):
        return OnCard(tensor.detach().clone())

    @staticmethod
    def backward(context, gradient):
        return gradient.inner


class ToCpu(torch.autograd.Function):
    @staticmethod
    def forward(context, tensor):
        OnCard.waits += 1
        return tensor.inner.clone()

    @staticmethod
    def backward(context, gradient):
        return OnCard(gradient)


def names_cuda(device) -> bool:
    return str(device).startswith("cuda") if isinstance(device, torch.device | str) else False


def moved(tensor: torch.Tensor, device) -> torch.Tensor:
    if device is None or names_cuda(device) == isinstance(tensor, OnCard):
        return tensor
    return (ToCuda if names_cuda(device) else ToCpu).apply(tensor)


class Calls(TorchFunctionMode):
    """Calls that name a device, or that CUDA answers in another way than the CPU."""

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = dict(options or {})
        name, first = getattr(function, "__name__", ""), arguments[0] if arguments else None
        on_card = isinstance(first, OnCard)
        if name == "pin_memory":
            if on_card:
                raise RuntimeError("cannot pin 'torch.cuda.FloatTensor': only dense CPU tensors can be pinned")
            return first
        if name == "is_pinned":
            return False
        if name in ("numpy", "tolist") and on_card:
            return getattr(first, name)()
        if name in ("cuda", "cpu") and isinstance(first, torch.Tensor):
            return moved(first, name)
        if name == "to" and isinstance(first, torch.Tensor):
            return self._to(function, first, arguments[1:], options)
        if names_cuda(options.get("device")) and not any(isinstance(leaf, OnCard) for leaf in tree_leaves(arguments)):
            return self._made(function, arguments, options)
        device = options.get("device")
        if name.endswith("_like") and on_card and device is not None and not names_cuda(device):
            return function(first.inner, *arguments[1:], **options)
        if name == "new_tensor" and on_card:
            return OnCard(torch.tensor(arguments[1], dtype=options.get("dtype", first.dtype)))
        return function(*arguments, **options)

    @staticmethod
    def _to(function, tensor: torch.Tensor, rest: tuple, options: dict) -> torch.Tensor:
        """`tensor.to(…)` with a device, a type or another tensor in any place."""
        options.pop("non_blocking", None)
        device = options.pop("device", None)
        for each in rest:
            if isinstance(each, torch.Tensor):
                device, options["dtype"] = each.device, each.dtype
            elif isinstance(each, str | torch.device):
                device = each
            elif isinstance(each, torch.dtype):
                options["dtype"] = each
        options = {name: value for name, value in options.items() if value is not None}
        there = moved(tensor, device)
        if there is not tensor:
            options.pop("copy", None)
        return function(there, **options) if options else there

    @staticmethod
    def _made(function, arguments: tuple, options: dict):
        """A tensor that is made on the card."""
        generator = options.get("generator")
        if generator is not None and generator.device.type != "cuda":
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        options.pop("pin_memory", None)
        wants_gradient = options.pop("requires_grad", False)
        found = function(*arguments, **options | {"device": CPU})
        return OnCard(found).requires_grad_(wants_gradient) if isinstance(found, torch.Tensor) else found


class Autocast(torch.autocast):
    """CUDA's autocast: the CPU's, with the type that was asked for."""

    def __init__(self, device_type: str, dtype: torch.dtype | None = None, **options) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, dtype, **options)


def by_device(lists, with_indices: bool = False, *, grouped):
    """The optimizers' grouping by device and type, which C++ does by what it believes the device to be."""
    groups = {}
    for (device, dtype), group in grouped(lists, with_indices).items():
        kinds = {isinstance(t, OnCard) for tensors in group[0] for t in tensors if t is not None and t.dim()}
        if len(kinds) > 1:
            raise RuntimeError("an optimizer has tensors of one weight on cuda:0 and on the CPU")
        groups[CUDA if True in kinds else device, dtype] = group
    return groups


def _set_states(states: list) -> None:
    if any(isinstance(state, OnCard) or state.dtype != torch.uint8 for state in states):
        raise TypeError("RNG state must be a torch.ByteTensor")


@contextlib.contextmanager
def pretended(card: Card = CARDS["T4"], free: int | None = None):
    """A process that has this card and no other, with `free` bytes free (by default all but a CUDA context).

    `torch.compile` gives back what it is given, and no kernels are listed as missing.
    """
    major, minor = card.capability
    free = card.memory - 500_000_000 if free is None else free
    about = SimpleNamespace(major=major, minor=minor, name=card.name, total_memory=card.memory)
    grouped = partial(by_device, grouped=grouping._group_tensors_by_device_and_dtype)
    cuda = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "is_current_stream_capturing": lambda: False,  # a CUDA build of PyTorch would ask the driver
        "get_device_name": lambda device=None: card.name,
        "get_device_capability": lambda device=None: card.capability,
        "get_device_properties": lambda device=None: about,
        "get_arch_list": lambda: ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_90"],
        "mem_get_info": lambda device=None: (free, card.memory),
        "memory_reserved": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "is_bf16_supported": lambda including_emulation=True: major >= 8 or including_emulation,
        "manual_seed_all": lambda seed: None,
        "get_rng_state_all": lambda: [torch.get_rng_state()],
        "set_rng_state_all": _set_states,
    }
    future = torch.__future__
    swaps = future.get_swap_module_params_on_conversion()
    overwrites = future.get_overwrite_module_params_on_conversion()
    with contextlib.ExitStack() as stack:
        stack.callback(future.set_swap_module_params_on_conversion, swaps)
        stack.callback(future.set_overwrite_module_params_on_conversion, overwrites)
        future.set_swap_module_params_on_conversion(False)
        future.set_overwrite_module_params_on_conversion(True)  # a module that moves gets new parameters
        for name, answer in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        for place, name, stand_in in (
            (torch, "inference_mode", torch.no_grad),  # its tensors would refuse to be wrapped
            (torch.accelerator, "is_available", lambda: False),  # no pinning: a CUDA build would start its driver
            (torch, "autocast", Autocast),
            (torch, "compile", lambda model, **_: model),
            (grouping, "_group_tensors_by_device_and_dtype", grouped),
            (optimizers, "_group_tensors_by_device_and_dtype", grouped),
        ):
            stack.enter_context(mock.patch.object(place, name, stand_in))
        stack.enter_context(Calls())
        yield card
