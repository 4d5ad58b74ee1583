"""How many floating-point operations a model takes, counted as in the tables of MPVSS (Weng et al., NeurIPS 2023; 1, 2
and F): by the rules of fvcore, in which a multiplication and its addition are one operation.

fvcore itself traces a model with `torch.jit`, which needs real pictures, and minutes for the large ones. Here its rules
are applied to what a model does with tensors that have a shape and no content: a second, and next to no memory.
"""

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tubelet.models.mask2former import Mask2Former, prepare
from tubelet.models.mpvss import MPVSS, class_scores, picture
from tubelet.nn.mask_decoder import Prediction

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Flops:
    """Operations `of` each kind: convolution, product (of matrices), attention, norm, bilinear, bag (of rows)."""

    of: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.of.values())


@dataclass(frozen=True)
class FrameFlops:
    """Of a model with key frames: `key`, a frame that is segmented; `other`, one that masks are carried to."""

    key: Flops
    other: Flops

    def average(self, interval: int, frames: int = 15) -> float:
        """Operations per frame of a clip in which every so many frames, from the first one on, is a key frame.

        Raises `ValueError` unless both are at least 1."""
        if interval < 1 or frames < 1:
            raise ValueError(f"interval and frames must be at least 1, got {interval} and {frames}")
        keys = len(range(0, frames, interval))
        return (keys * self.key.total + (frames - keys) * self.other.total) / frames


@cache
def shapes() -> FakeTensorMode:
    """A context in which tensors have shapes but no content."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def hollow(build: Callable[[], Module]) -> Module:
    """The model that `build` makes, in evaluation mode, with parameters that have shapes alone: to be counted."""
    with torch.device("meta"):
        model = build()
    with shapes():  # where tensors seem to be on the CPU; models ask for autocast, and "meta" has none
        return model.to_empty(device="cpu").eval()


def count(function: Callable, *inputs: Any) -> Flops:
    """What `function` (a module, say) does with `inputs`: convolutions and matrix products (one for each multiplication
    and its addition), attention (its two products), norms (two to five for each value), and values between pixels
    (four each). Nothing else counts: no activation, no sum, no softmax.

    Nothing is computed; a function that asks what is in a tensor fails. Raises `RuntimeError` without fvcore."""
    with shapes(), Counting() as counting:
        function(*inputs)
    return counting.flops()


def mpvss_flops(model: MPVSS, size: tuple[int, int], *, plain: bool = True) -> FrameFlops:
    """A key frame and a frame between, both of `size` (H, W) as the model sees them, from RGB to the scores of all
    classes at every pixel.

    `plain` is the paper's way: everything at the padded size, full masks after each layer of the decoder, bilinear
    samples in the deformable layers. Without it: what a session does, if no query is left out. Batch norms count if
    the model has any, as in the paper; frozen ones (`frozen_norm=True`) are folded into the convolutions here.

    Not counted is that the authors' program resizes the scores of every frame, even to the size that they have, with
    four operations for each: the paper's numbers of frames between agree without it, those of key frames either way.

    Raises `ValueError` for a model in training mode, or without flow, and `RuntimeError` without fvcore."""
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() first")
    if model.motion is None:
        raise ValueError("this model estimates no flow; it has no frames between key frames that could be counted")
    shown = None if plain else size
    # The deformable layers are in their plain form where there may be a gradient.
    with shapes(), torch.set_grad_enabled(plain):
        images = torch.zeros(1, 3, *size)
        start = picture(images)
        with Counting() as key:
            found = segment(model.segmentor, images) if plain else model.segment(images).prediction
            scores(found, shown)
        with Counting() as other:
            masks = model.carry(found.mask_logits, model.flows(images, start, found.embeddings))
            scores(found._replace(mask_logits=masks), shown)
    return FrameFlops(key.flops(), other.flops())


def segment(model: Mask2Former, images: Float[Tensor, "B 3 H W"]) -> Prediction:
    """The last prediction, in the way of the paper."""
    return model.decode(model.encode(prepare(images[:, None])))[-1]


def scores(found: Prediction, size: tuple[int, int] | None) -> Float[Tensor, "K H W"]:
    """The scores of all classes at every pixel of the padded frame, or of its part of this size."""
    masks = F.interpolate(found.mask_logits[:, :, 0], scale_factor=4, mode="bilinear", align_corners=False)[0]
    return class_scores(found.class_logits[0], masks if size is None else masks[:, : size[0], : size[1]])


class Value(NamedTuple):
    """An argument of an operator, with what fvcore's rules ask the values of a jit graph."""

    value: Any

    def isCompleteTensor(self) -> bool:
        return isinstance(self.value, Tensor)

    def type(self) -> "Value":
        return self

    def sizes(self) -> list[int]:
        return list(self.value.shape)

    def toIValue(self) -> Any:
        return self.value


# From the arguments of an operator and what it returned to a number of operations.
Rule = Callable[[list[Value], list[Value]], Any]

# The kernels of `scaled_dot_product_attention`; where it takes none of them, it is matrix products.
ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)


@cache
def rules() -> dict[Any, tuple[str, Rule]]:
    """The kind and the rule of each operator of torch that counts: fvcore's, and those it lacks.

    Raises `RuntimeError` without fvcore."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it compiles something with torch.jit, which is deprecated
            from fvcore.nn import jit_handles as fvcore
    except ModuleNotFoundError as error:
        raise RuntimeError("counting operations needs fvcore: pip install tubelet[flops]") from error

    def convolution(inputs: list[Value], outputs: list[Value]) -> Any:
        x, weight = (value.sizes() for value in inputs[:2])
        return fvcore.conv_flop_count(x, weight, outputs[0].sizes(), transposed=inputs[6].toIValue())

    table = {
        "convolution": {"convolution": convolution},
        "product": {
            "mm": fvcore.matmul_flop_jit,
            "addmm": fvcore.addmm_flop_jit,
            "bmm": fvcore.bmm_flop_jit,
            "baddbmm": lambda inputs, outputs: fvcore.bmm_flop_jit(inputs[1:3], outputs),
        },
        "attention": dict.fromkeys(ATTENTION, attention),
        "norm": {
            "native_batch_norm": fvcore.batchnorm_flop_jit,
            "cudnn_batch_norm": fvcore.batchnorm_flop_jit,
            "native_group_norm": fvcore.norm_flop_counter(1),
            "native_layer_norm": fvcore.norm_flop_counter(2),
        },
        "bilinear": dict.fromkeys(("upsample_bilinear2d", "grid_sampler_2d"), fvcore.elementwise_flop_counter(0, 4)),
        "bag": dict.fromkeys(("_embedding_bag", "_embedding_bag_forward_only"), embedding_bag),
    }
    operators = {name: (kind, rule) for kind, of_kind in table.items() for name, rule in of_kind.items()}
    return {getattr(torch.ops.aten, name): pair for name, pair in operators.items()}


def attention(inputs: list[Value], outputs: list[Value]) -> int:
    """Two products: of queries (B, heads, n, d) with keys (B, heads, m, d), and of the weights with values."""
    *batch, n, d = inputs[0].sizes()
    m, e = inputs[2].sizes()[-2:]
    return prod(batch) * n * m * (d + e)


def embedding_bag(inputs: list[Value], outputs: list[Value]) -> int:
    """The row of each index, times its weight."""
    return prod(inputs[1].sizes()) * inputs[0].sizes()[1]


class Counting(TorchDispatchMode):
    """A context that applies the rules to each operator that has one; `flops` is what they say, added up by kind."""

    def __init__(self):
        super().__init__()
        self.rules, self.found = rules(), Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (found := self.rules.get(func.overloadpacket)) is not None:
            kind, rule = found
            outputs = out if isinstance(out, tuple) else (out,)
            self.found[kind] += int(rule([Value(x) for x in args], [Value(x) for x in outputs]))
        return out

    def flops(self) -> Flops:
        return Flops(dict(self.found))
