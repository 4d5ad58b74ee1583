"""Following objects through one video with a model of the AOT family: the paper's inference, frame by frame."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tubelet.models.aot.memory import Group, merge_groups
from tubelet.models.aot.model import AOT, Encoded
from tubelet.models.base import Session, check_followed, check_input, paste, precision
from tubelet.types import Frame, LabelFrame, Prompt
from tubelet.video.resize import TILE_VALUES, bands, labels_to_model, model_size, to_model, winner

LabelMap = UInt8[np.ndarray, "H W"]


class View:
    """The video at one scale, possibly mirrored, with memories of its own (test-time augmentation has several)."""

    def __init__(self, model: AOT, *, scale: float, flip: bool, long_edge: int, short_edge: int | None):
        self.model, self.scale, self.flip = model, scale, flip
        self.long_edge, self.short_edge = long_edge, short_edge
        self.groups: list[Group] = []

    def encode(self, rgb: UInt8[np.ndarray, "H W 3"], device: torch.device) -> Encoded:
        """The frame at this view's size through the encoder."""
        self.size = model_size(
            *rgb.shape[:2],
            long_edge=self.long_edge,
            short_edge=self.short_edge,
            scale=self.scale,
            plus_one=self.model.align_corners,
        )
        image = to_model(rgb, self.size)[None].to(device)
        image = image.flip(3) if self.flip else image
        if device.type == "cpu":  # a quarter faster there, and the 1 x 1 convolutions are spared a slow path
            image = image.contiguous(memory_format=torch.channels_last)
        return self.model.encode_image(image)

    def predict(self, frame: Encoded, depth: int) -> list[Float[Tensor, "_ h4 w4"]]:
        """The logits of each group at stride 4, mirrored back."""
        logits = [group.predict(frame, depth).float() for group in self.groups]
        return [x.flip(2) for x in logits] if self.flip else logits

    def place(self, labels: LabelMap, device: torch.device) -> UInt8[Tensor, "h w"]:
        """Labels of the frame at this view's size."""
        placed = labels_to_model(labels, self.size).to(device)
        return placed.flip(1) if self.flip else placed


class AOTSession(Session[LabelFrame]):
    """One video through an AOT model. Answers every frame at once; see `AOT.session` for the arguments."""

    def __init__(
        self,
        model: AOT,
        *,
        depth: int | None = None,
        long_edge: int | None = None,
        memory_gap: int | Literal["model"] | None = "model",
        max_memory: int | None = 10,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        autocast: torch.dtype | None = None,
    ):
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales must be positive numbers, got {tuple(scales)}")
        if max_memory is not None and max_memory < 1:
            raise ValueError(f"max_memory must be at least 1 frame, or None for no bound; got {max_memory}")
        if model.training:
            raise ValueError("the model is in training mode, where it drops paths at random; call model.eval() first")
        self.model = model
        self.depth = depth
        self.gap = model.memory_gap if memory_gap == "model" else memory_gap
        self.max_memory, self.autocast = max_memory, autocast
        short_edge = 624 if tuple(scales) != (1.0,) else None  # the authors' rule for multi-scale
        self.views = [
            View(model, scale=scale, flip=mirrored, long_edge=long_edge or model.long_edge, short_edge=short_edge)
            for scale in scales
            for mirrored in ((False, True) if flip else (False,))
        ]
        self.frame_size: tuple[int, int] | None = None
        self.step = -1

    @property
    def depth(self) -> int:
        """How many blocks the next frame goes through; AOST takes another value at any time."""
        return self._depth

    @depth.setter
    def depth(self, depth: int | None) -> None:
        self._depth = self.model.check_depth(depth)

    @property
    def objects(self) -> tuple[int, ...]:
        """The ids being followed, ascending."""
        return tuple(sorted(i for group in self.views[0].groups for i in group.slots))

    @torch.inference_mode()
    def feed(self, frame: Frame, prompt: Prompt | None = None) -> list[LabelFrame]:
        """The labels of this frame, at once. New masks are pasted over the prediction; a mask given for an object
        that is already followed replaces what was predicted for it. Either way the frame is remembered for good.

        Raises `ValueError` if the size of a frame or a mask does not fit, or an id to remove is not followed."""
        prompt = prompt or Prompt()
        self.frame_size = check_input(frame, prompt, begun=self.frame_size, objects=self.objects)
        for i in set(prompt.remove):
            self.remove(i)
        self.step += 1
        given = prompt.objects()
        if not given and not self.objects:
            return [LabelFrame(np.zeros(frame.rgb.shape[:2], np.uint8), frame.index)]
        device = next(self.model.parameters()).device
        with precision(self.autocast, device):
            encoded = [view.encode(frame.rgb, device) for view in self.views]
            labels, own = self._predict(encoded, corrected=given)
            if given:
                assert prompt.labels is not None
                labels, *own = (paste(prompt.labels, below) for below in (labels, *own))
                self._assign(given)
            for view, features, seen in zip(self.views, encoded, own, strict=True):
                placed = view.place(seen, device)
                for group in view.groups:
                    if given:
                        group.refer(features, placed, self.step)
                    else:
                        group.memorize(placed, self.step)
        return [LabelFrame(labels, frame.index, self.objects)]

    def finish(self) -> list[LabelFrame]:
        return []

    def remove(self, object_id: int) -> None:
        """Stops following an object. Raises `ValueError` if it is not followed."""
        check_followed(object_id, self.objects)
        for view in self.views:
            for group in view.groups:
                if object_id in group.slots:
                    group.remove(object_id)
            view.groups = [group for group in view.groups if group.slots]

    def _assign(self, objects: tuple[int, ...]) -> None:
        """Identities for the objects that have none, in new groups of ten when the others are full."""
        for i in objects:
            if i in self.objects:
                continue
            for view in self.views:
                group = next((g for g in view.groups if not g.full), None)
                if group is None:
                    group = Group(self.model, gap=self.gap, cap=self.max_memory)
                    view.groups.append(group)
                group.assign(i)

    def _predict(self, encoded: list[Encoded], *, corrected: tuple[int, ...]) -> tuple[LabelMap, list[LabelMap]]:
        """The labels of the frame, and what each view alone would say (it remembers its own prediction).

        Objects that are about to be corrected do not take part, so that their old mask leaves no trace."""
        assert self.frame_size is not None
        ids = [0, *(i for group in self.views[0].groups for i in group.slots)]
        if len(ids) == 1:
            empty = np.zeros(self.frame_size, np.uint8)
            return empty, [empty] * len(self.views)
        logits = [view.predict(x, self.depth) for view, x in zip(self.views, encoded, strict=True)]
        table = torch.tensor(ids, dtype=torch.uint8, device=logits[0][0].device)
        banned = torch.tensor([i in corrected for i in ids], device=table.device)
        together, own = self._label(logits, banned)
        return table[together.long()].cpu().numpy(), [table[x.long()].cpu().numpy() for x in own]

    def _label(
        self, logits: list[list[Float[Tensor, "_ _ _"]]], banned: Tensor
    ) -> tuple[UInt8[Tensor, "H W"], list[UInt8[Tensor, "H W"]]]:
        """The winning channel of every pixel, for all views together and for each alone, in bands of rows."""
        assert self.frame_size is not None
        counts = [x.shape[0] for x in logits[0]]
        stacked = [torch.cat(groups) for groups in logits]
        together, own = [], [[] for _ in logits]
        rows = max(1, TILE_VALUES // (sum(counts) * self.frame_size[1]))
        upsampled = (bands(x, self.frame_size, align_corners=self.model.align_corners, rows=rows) for x in stacked)
        for views in zip(*upsampled, strict=True):
            scores = [merge_groups(list(band.split(counts))) for band in views]
            scores = [x.masked_fill(banned[:, None, None], float("-inf")) for x in scores] if banned.any() else scores
            for kept, x in zip(own, scores, strict=True):
                kept.append(winner(x))
            if len(scores) > 1:
                together.append(winner(torch.stack([x.softmax(0) for x in scores]).sum(0)))
        mine = [torch.cat(kept) for kept in own]
        return (torch.cat(together) if together else mine[0]), mine
