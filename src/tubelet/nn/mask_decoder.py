"""The transformer decoder of Mask2Former (Cheng et al., CVPR 2022, section 3.2) over one image or a clip of T frames.

Queries collect what they segment: in each layer they look only at the places that their last mask covers (equation 2).
The parts can be called on their own; `MaskDecoder` puts them together in the order of the paper.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tubelet.nn.feed_forward import FeedForward
from tubelet.nn.position import sine_position, sine_position_3d


class Prediction(NamedTuple):
    """What the heads read from queries. The last class is "no object". Masks are logits at the size of the features."""

    class_logits: Float[Tensor, "B Q K1"]
    mask_logits: Float[Tensor, "B Q T h w"]
    embeddings: Float[Tensor, "B Q C"]  # the normalised queries, for linking and for further decoders


# Which queries are wanted, by their class logits (B, Q, K + 1).
Choice = Callable[[Float[Tensor, "B Q K1"]], Int[Tensor, " n"]]


class Memory(NamedTuple):
    """A level that queries attend to: frames, rows and columns of `size` (T, h, w), flattened in this order."""

    tokens: Float[Tensor, "B n C"]
    position: Float[Tensor, "n C"]
    size: tuple[int, int, int]


def attention_mask(mask_logits: Float[Tensor, "B Q T h w"], size: tuple[int, int]) -> Bool[Tensor, "B 1 Q n"]:
    """Where each query may look in a level of `size` (rows, columns) per frame, n = T * rows * columns: its mask there,
    or everywhere if that is empty. One mask for all heads; no gradient passes."""
    logits = mask_logits.detach().transpose(1, 2)
    if logits.shape[3:] != size:
        logits = F.interpolate(logits.flatten(0, 1), size, mode="bilinear", align_corners=False)
        logits = logits.unflatten(0, (-1, mask_logits.shape[2]))
    inside = (logits >= 0).transpose(1, 2).flatten(2)
    return (inside | ~inside.any(dim=2, keepdim=True))[:, None]


class Attention(nn.Module):
    """Multi-head attention whose query, key and value projections are one matrix, three times C rows."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.entrance = nn.Linear(channels, 3 * channels)
        self.projection = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.entrance.weight)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.entrance.bias)
        nn.init.zeros_(self.projection.bias)

    def forward(
        self,
        query: Float[Tensor, "B n C"],
        key: Float[Tensor, "B m C"],
        value: Float[Tensor, "B m C"],
        mask: Bool[Tensor, "B 1 n m"] | None = None,
    ) -> Float[Tensor, "B n C"]:
        """`mask`: True where a query may look; each needs one such place."""
        parts = zip((query, key, value), self.entrance.weight.chunk(3), self.entrance.bias.chunk(3))
        q, k, v = (F.linear(x, w, b).unflatten(2, (self.heads, -1)).transpose(1, 2) for x, w, b in parts)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.projection(out.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, an MLP, each with a shortcut and a norm after it."""

    def __init__(self, channels: int, heads: int = 8, hidden: int = 2048):
        super().__init__()
        self.cross_attention = Attention(channels, heads)
        self.cross_norm = nn.LayerNorm(channels)
        self.self_attention = Attention(channels, heads)
        self.self_norm = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels, hidden)

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        query_position: Float[Tensor, "Q C"],
        memory: Float[Tensor, "B n C"],
        memory_position: Float[Tensor, "n C"],
        mask: Bool[Tensor, "B 1 Q n"] | None,
    ) -> Float[Tensor, "B Q C"]:
        """`mask`: True where a query may look (`attention_mask`); None: everywhere."""
        found = self.cross_attention(queries + query_position, memory + memory_position, memory, mask)
        queries = self.cross_norm(queries + found)
        placed = queries + query_position
        queries = self.self_norm(queries + self.self_attention(placed, placed, queries))
        return self.feed_forward(queries)


class Heads(nn.Module):
    """Class and mask of each query; a mask is the product of a vector of the query with the features of every place."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.class_embed = nn.Linear(channels, classes + 1)
        self.mask_embed = nn.ModuleList(nn.Linear(channels, channels) for _ in range(3))

    def forward(self, queries: Float[Tensor, "B Q C"], mask_features: Float[Tensor, "B T C h w"]) -> Prediction:
        masks = (self.mask_vectors(queries)[:, None] @ mask_features.flatten(3)).unflatten(3, mask_features.shape[3:])
        return Prediction(self.class_logits(queries), masks.transpose(1, 2), self.norm(queries))

    def class_logits(self, queries: Float[Tensor, "*_ C"]) -> Float[Tensor, "*_ K1"]:
        return self.class_embed(self.norm(queries))

    def mask_vectors(self, queries: Float[Tensor, "*_ C"]) -> Float[Tensor, "*_ C"]:
        """What the features of a place are multiplied with to tell whether it belongs to the query's mask."""
        vectors = self.norm(queries)
        for i, linear in enumerate(self.mask_embed):
            vectors = linear(F.relu(vectors) if i else vectors)
        return vectors


@dataclass
class Branch:
    """One set of queries on its way through its layers, and the predictions made on the way if they are to be kept."""

    queries: Float[Tensor, "B Q C"]
    position: Float[Tensor, "Q C"]
    layers: nn.ModuleList
    heads: Heads
    memories: list[Memory]  # layer i looks at memory i modulo their number
    features: list[Tensor]  # likewise: mask features, of any size, for the mask that it looks through
    keep: bool = True
    outputs: list[Prediction] = field(default_factory=list)

    def run(self) -> None:
        """All layers, one after the other."""
        for i in range(len(self.layers)):
            self.advance(i)

    def advance(self, i: int) -> None:
        """Layer i, after the prediction whose mask it looks through."""
        memory = self.memories[i % len(self.memories)]
        mask = attention_mask(self.predict(self.features[i % len(self.features)]), memory.size[1:])
        self.queries = self.layers[i](self.queries, self.position, memory.tokens, memory.position, mask)

    def predict(self, features: Float[Tensor, "B T C _ _"]) -> Float[Tensor, "B Q T _ _"]:
        """The masks of the queries as they are now."""
        found = self.heads(self.queries, features)
        if self.keep:
            self.outputs.append(found)
        return found.mask_logits

    def finish(self, mask_features: Float[Tensor, "B T C h w"]) -> list[Prediction]:
        """All predictions, with one of the queries as they are now at the end."""
        return [*self.outputs, self.last(mask_features)]

    def last(self, mask_features: Float[Tensor, "B T C h w"], choose: Choice | None = None) -> Prediction:
        """The prediction of the queries as they are now, or of those alone that are chosen."""
        if choose is None:
            return self.heads(self.queries, mask_features)
        return self.heads(self.queries[:, choose(self.heads.class_logits(self.queries))], mask_features)


def remember(x: Float[Tensor, "B T C h w"], level: Float[Tensor, " C"], *, temporal: bool) -> Memory:
    """A map with the embedding of its level. `temporal`: places know their frame besides row and column."""
    t, channels, h, w = x.shape[1:]
    tokens = x.permute(0, 1, 3, 4, 2).flatten(1, 3) + level
    if temporal:
        position = sine_position_3d(t, h, w, channels, device=x.device)
    else:
        position = sine_position(h, w, channels, start=1, device=x.device).repeat(t, 1)
    return Memory(tokens, position.to(level.dtype), (t, h, w))


def frame_by_frame(memory: Memory) -> Memory:
    """The same places with the frames folded into the batch (T = 1): they know their row and column, not their time."""
    tokens, (t, h, w) = memory.tokens, memory.size
    position = sine_position(h, w, tokens.shape[2], start=1, device=tokens.device).to(memory.position.dtype)
    return Memory(tokens.unflatten(1, (t, -1)).flatten(0, 1), position, (1, h, w))


class MaskDecoder(nn.Module):
    """`temporal`: the clip is one volume, and places carry their time besides row and column (Mask2Former for video,
    section 2). Without, frames know no time, and are to be folded into the batch (T = 1)."""

    def __init__(
        self,
        classes: int,
        queries: int = 100,
        *,
        channels: int = 256,
        layers: int = 9,
        hidden: int = 2048,
        levels: int = 3,
        temporal: bool = True,
    ):
        super().__init__()
        self.temporal = temporal
        self.query_content = nn.Parameter(torch.randn(queries, channels))
        self.query_position = nn.Parameter(torch.randn(queries, channels))
        self.level_embed = nn.Parameter(torch.randn(levels, channels))
        self.layers = nn.ModuleList(DecoderLayer(channels, hidden=hidden) for _ in range(layers))
        self.heads = Heads(channels, classes)

    def remember(self, levels: list[Float[Tensor, "B T C _ _"]]) -> list[Memory]:
        """What the layers attend to, of maps at strides 32, 16, 8; layer i uses level i modulo 3."""
        pairs = zip(levels, self.level_embed, strict=True)
        return [remember(x, level, temporal=self.temporal) for x, level in pairs]

    def start(self, batch: int) -> Float[Tensor, "B Q C"]:
        """The learned queries, before any layer."""
        return self.query_content.expand(batch, -1, -1)

    def forward(
        self, mask_features: Float[Tensor, "B T C h4 w4"], levels: list[Float[Tensor, "B T C _ _"]]
    ) -> list[Prediction]:
        """The prediction of the learned queries, then that after each layer: all that training supervises."""
        branch = self.branch(levels, [mask_features] * len(levels))
        branch.run()
        return branch.finish(mask_features)

    def last(
        self,
        mask_features: Float[Tensor, "B T C h4 w4"],
        levels: list[Float[Tensor, "B T C _ _"]],
        choose: Choice | None = None,
    ) -> Prediction:
        """The last prediction of `forward`, without full masks in between, of the queries that are chosen.

        The layers need masks at the size of their level only. Resizing and the product with the features are both
        linear, so the features are resized instead, once per level."""
        branch = self.branch(levels, self.resized(mask_features, levels), keep=False)
        branch.run()
        return branch.last(mask_features, choose)

    def resized(
        self, mask_features: Float[Tensor, "B T C h4 w4"], levels: list[Float[Tensor, "B T C _ _"]]
    ) -> list[Float[Tensor, "B T C _ _"]]:
        """The mask features at the size of each level.

        Resizing 5 frames of 96 x 160 takes 11 ms on a CPU where they are channels last, as encoders leave them, and 400
        where they are not."""
        batch = mask_features.shape[:2]
        flat = mask_features.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        maps = [F.interpolate(flat, x.shape[3:], mode="bilinear", align_corners=False) for x in levels]
        return [x.unflatten(0, batch) for x in maps]

    def branch(self, levels: list[Tensor], features: list[Tensor], *, keep: bool = True) -> Branch:
        """The learned queries before the first layer; `features`: mask features to look through, one per level."""
        start, memories = self.start(levels[0].shape[0]), self.remember(levels)
        return Branch(start, self.query_position, self.layers, self.heads, memories, features, keep)
