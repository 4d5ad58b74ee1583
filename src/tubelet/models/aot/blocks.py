"""The long short-term transformer (LSTT), paper section 4.2, and its scalable version (S-LSTT), section 4.3.

What is unusual about it:

- Each block attends three times: to its own frame, to every frame of the long-term memory, and to a 15 x 15 window of
  the previous frame. The last two run side by side on the same query and are summed.
- Query and key share one projection ("siamese-like matching"): a place matches what looks like itself.
- What is remembered of a frame is not known until its masks are: `propagate` returns the raw `Matched` embeddings and
  `memorize` joins them with the identity embedding E of the masks, as `AddIdentity` (block V1, equation 3) or
  `GateIdentity` (block V2: E is projected per layer, and also gates the key).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.drop import DropPath
from torch import Tensor, nn

from tubelet.nn.attention import LocalAttention, MultiHeadAttention, attend

HEADS = 8
WINDOW = 15


class Matched(NamedTuple):
    """What one block knows of a frame before its masks are known: the matching key and the raw value."""

    key: Float[Tensor, "B hw C"]
    value: Float[Tensor, "B hw C"]


class Memory(NamedTuple):
    """Keys and values of remembered frames, identities included; m is hw times the number of frames."""

    key: Float[Tensor, "B m C"]
    value: Float[Tensor, "B m C"]


class AddIdentity(nn.Module):
    """Block V1: V = W (X + E), equation 3 with the projection after the sum."""

    def __init__(self, channels: int):
        super().__init__()
        self.match_key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)

    def match(self, x: Float[Tensor, "B hw C"]) -> Matched:
        return Matched(self.match_key(x), x)

    def memorize(self, matched: Matched, identity: Float[Tensor, "B hw C"]) -> Memory:
        return Memory(matched.key, self.value(matched.value + identity))


class GateIdentity(nn.Module):
    """Block V2: K' = K (1 + tanh(gate(E))), one gate per head and place, and V' = V + W_l E."""

    def __init__(self, channels: int):
        super().__init__()
        self.match_key_value = nn.Linear(channels, 2 * channels)
        self.identity_gate_value = nn.Linear(channels, HEADS + channels)

    def match(self, x: Float[Tensor, "B hw C"]) -> Matched:
        return Matched(*self.match_key_value(x).chunk(2, dim=2))

    def memorize(self, matched: Matched, identity: Float[Tensor, "B hw C"]) -> Memory:
        gate, value = self.identity_gate_value(identity).split((HEADS, identity.shape[2]), dim=2)
        gate = (1 + gate.tanh()).repeat_interleave(identity.shape[2] // HEADS, dim=2)
        return Memory(matched.key * gate, matched.value + value)


class FeedForward(nn.Module):
    """Linear, group norm, GELU, 5 x 5 depth-wise convolution, linear."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.expand = nn.Linear(channels, hidden)
        self.norm = nn.GroupNorm(32, hidden)
        self.conv = nn.Conv2d(hidden, hidden, 5, padding=2, groups=hidden, bias=False)
        self.reduce = nn.Linear(hidden, channels)

    def forward(self, x: Float[Tensor, "B hw C"], size: tuple[int, int]) -> Float[Tensor, "B hw C"]:
        x = self.expand(x).transpose(1, 2).unflatten(2, size)
        x = self.conv(F.gelu(self.norm(x)))
        return self.reduce(x.flatten(2).transpose(1, 2))


class Block(nn.Module):
    """One LSTT block (Fig. 3c): self-attention, long- plus short-term attention, feed-forward; all pre-norm."""

    def __init__(self, channels: int, identity: AddIdentity | GateIdentity, *, drop_path: float = 0.1):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.self_attention = MultiHeadAttention(channels, HEADS)
        self.norm2 = nn.LayerNorm(channels)
        self.identity = identity
        self.long_projection = nn.Linear(channels, channels)
        self.short_attention = LocalAttention(channels, HEADS, WINDOW)
        self.norm3 = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels, 4 * channels)
        self.drop_path = DropPath(drop_path)

    def attend_itself(self, x: Float[Tensor, "B hw C"], position: Float[Tensor, "hw C"]) -> Float[Tensor, "B hw C"]:
        """The position is seen by query and key, not by the value."""
        normed = self.norm1(x)
        placed = normed + position
        return x + self.drop_path(self.self_attention(placed, placed, normed))

    def attend_memory(
        self, x: Float[Tensor, "B hw C"], matched: Matched, long: Memory, short: Memory, size: tuple[int, int]
    ) -> Float[Tensor, "B hw C"]:
        """AttLT over all of `long`, AttST over a window of `short` (section 4.2)."""
        from_long = self.long_projection(attend(matched.key, long.key, long.value, HEADS))
        from_short = self.short_attention(matched.key, short.key, short.value, size)
        x = x + from_long + from_short
        return x + self.drop_path(self.feed_forward(self.norm3(x), size))


class LSTT(nn.Module):
    """A stack of blocks. `shared` uses one block `depth` times (AOST-Share)."""

    def __init__(self, channels: int, depth: int, *, gated: bool, shared: bool = False):
        super().__init__()
        self.depth, self.shared = depth, shared
        identity = GateIdentity if gated else AddIdentity
        count = 1 if shared else depth
        self.blocks = nn.ModuleList(Block(channels, identity(channels)) for _ in range(count))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(count))

    def block(self, layer: int) -> Block:
        return self.blocks[0 if self.shared else layer]  # pyright: ignore[reportReturnType]

    def propagate(
        self,
        x: Float[Tensor, "B hw C"],
        size: tuple[int, int],
        position: Float[Tensor, "hw C"],
        memory: list[tuple[Memory, Memory]],
    ) -> tuple[list[Float[Tensor, "B hw C"]], list[Matched]]:
        """One frame through as many blocks as `memory` has (long, short) pairs.

        Returns the normalised output and the matched embeddings of each block."""
        outputs, matched = [], []
        for layer, (long, short) in enumerate(memory):
            block = self.block(layer)
            x = block.attend_itself(x, position)
            matched.append(block.identity.match(block.norm2(x)))
            x = block.attend_memory(x, matched[-1], long, short, size)
            outputs.append(self.norms[0 if self.shared else layer](x))
        return outputs, matched

    def refer(
        self,
        x: Float[Tensor, "B hw C"],
        size: tuple[int, int],
        position: Float[Tensor, "hw C"],
        identity: Float[Tensor, "B hw C"],
        depth: int,
    ) -> tuple[list[Float[Tensor, "B hw C"]], list[Memory]]:
        """A frame whose masks are given: both attentions look at the frame itself (end of section 4.2).

        Returns the normalised output of each block and the memory it leaves."""
        outputs, memory = [], []
        for layer in range(depth):
            block = self.block(layer)
            x = block.attend_itself(x, position)
            matched = block.identity.match(block.norm2(x))
            memory.append(block.identity.memorize(matched, identity))
            x = block.attend_memory(x, matched, memory[-1], memory[-1], size)
            outputs.append(self.norms[0 if self.shared else layer](x))
        return outputs, memory

    def memorize(self, matched: list[Matched], identity: Float[Tensor, "B hw C"]) -> list[Memory]:
        """The memory that a propagated frame leaves once its masks are known."""
        return [self.block(i).identity.memorize(m, identity) for i, m in enumerate(matched)]


class ConvNorm(nn.Module):
    """Convolution, group norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2)
        self.norm = nn.GroupNorm(8, channels_out)

    def forward(self, x: Float[Tensor, "B _ h w"]) -> Float[Tensor, "B _ h w"]:
        return F.relu(self.norm(self.conv(x)))


class Decoder(nn.Module):
    """FPN head: LSTT outputs and the encoder's shortcuts in, identity logits at stride 4 out.

    `inputs` holds the channels of each entrance: one, or one per depth of a scalable transformer."""

    def __init__(
        self,
        inputs: list[int],
        shortcuts: tuple[int, ...],
        identities: int,
        *,
        channels: int,
        align_corners: bool,
    ):
        super().__init__()
        self.align_corners = align_corners
        half, (c4, c8, c16) = channels // 2, shortcuts
        self.entrances = nn.ModuleList(ConvNorm(c, channels, 1) for c in inputs)
        self.conv16, self.adapter16 = ConvNorm(channels, channels, 3), nn.Conv2d(c16, channels, 1)
        self.conv8, self.adapter8 = ConvNorm(channels, half, 3), nn.Conv2d(c8, channels, 1)
        self.conv4, self.adapter4 = ConvNorm(half, half, 3), nn.Conv2d(c4, half, 1)
        self.out = nn.Conv2d(half, identities, 1)

    def adapt(self, maps: list[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B _ _ _"]]:
        """The encoder's maps at strides 4, 8 and 16 as shortcuts: once per frame, however often that is decoded."""
        return [self.adapter4(maps[0]), self.adapter8(maps[1]), self.adapter16(maps[2])]

    def forward(
        self, x: Float[Tensor, "B _ h16 w16"], shortcuts: list[Float[Tensor, "B _ _ _"]], entrance: int
    ) -> Float[Tensor, "B M h4 w4"]:
        x4, x8, x16 = shortcuts
        x = self.conv16(self.entrances[entrance](x) + x16)
        x = self.conv8(self.enlarge(x, x8) + x8)
        x = self.conv4(self.enlarge(x, x4) + x4)
        return self.out(x)

    def enlarge(self, x: Float[Tensor, "B C h w"], like: Tensor) -> Float[Tensor, "B C _ _"]:
        return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=self.align_corners)


def initialize(module: nn.Module) -> None:
    """Xavier for every matrix of the LSTT and the decoder, as the authors do."""
    for m in module.modules():
        if isinstance(m, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)


def one_hot(ids: Tensor, identities: int) -> Float[Tensor, "B M H W"]:
    """Identity maps (B, H, W) -> (B, identities, H, W) of 0 and 1; channel 0 is the background."""
    every = torch.arange(identities, device=ids.device).view(1, -1, 1, 1)
    return (ids[:, None] == every).float()  # three times as fast as F.one_hot
