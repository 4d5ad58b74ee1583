"""A video of any length through a model that segments whole clips: windows, linked where they overlap.

A clip model (Mask2Former-VIS, SyncVIS) answers for all frames that it has seen together. `ClipSession` shows it windows
of the video: every window shares its first frames with the one before, and what is found in it is linked to the tracks
so far by the similarity of the queries and by the overlap of the masks on the shared frames. A video that is not longer
than the window is seen at once, as in the papers, and then this is exactly their inference.

Memory: the encoded frames of one window, and what a track was last seen as. Masks leave as RLE, frame by frame.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tubelet.models.base import TrackSession, check_input, precision
from tubelet.models.mask2former import Encoded
from tubelet.nn.mask_decoder import Choice, Prediction
from tubelet.track.link import cosine, link, tube_iou
from tubelet.types import Frame, Prompt, Track, TrackFrame, encode_rle
from tubelet.video.resize import padded, short_edge_size

MEMORY_BUDGET = 2_000_000_000  # bytes of encoded frames


@runtime_checkable
class ClipModel(Protocol):
    """What a session needs of a model: the two steps."""

    def encode(self, images: Float[Tensor, "B T 3 H W"]) -> Encoded: ...

    def decode_last(self, clip: Encoded, choose: Choice | None = None) -> Prediction: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    training: bool


@dataclass
class Seen:
    """A track as it was last seen: its embedding, the class probabilities of all windows (their maximum), its masks on
    the last frames of the window, by which the next one may know it, and the number of that window."""

    id: int
    embedding: Float[Tensor, " C"]
    probabilities: Float[Tensor, " K"]
    tail: Bool[Tensor, "T h w"]
    window: int


class ClipSession(TrackSession):
    """`short_edge`, `long_edge`: frames are brought to this size (enlarged too, as the papers do). `window`: frames
    that are seen together; None: as many as fit into `memory_budget` bytes once they are encoded (21 MB a frame at
    360x640 in float32, so 95 frames; the peak, while they are decoded, is about three times the budget). `overlap`:
    frames that neighbouring windows share. `most`: how many (query, class) pairs count, in a window and in the whole
    video (10 for YouTube-VIS, 20 for OVIS). `min_score`: pairs below it are left out. `categories`: the class indices
    that are of interest (None: all). `alike`: how similar, -1..2 (cosine plus overlap), what is linked must be.
    `patience`: windows after which a track that was not found again is forgotten; its score is kept.

    A track's probability of a class is its largest over the windows, so that one that is seen in few of them is not
    lost. Raises `ValueError` for a model in training mode or a window that does not move on."""

    def __init__(
        self,
        model: ClipModel,
        *,
        short_edge: int = 360,
        long_edge: int = 1333,
        window: int | None = None,
        overlap: int = 2,
        memory_budget: int = MEMORY_BUDGET,
        most: int = 10,
        min_score: float = 0.0,
        categories: tuple[int, ...] | None = None,
        alike: float = 0.5,
        patience: int = 5,
        autocast: torch.dtype | None = None,
    ):
        if model.training:
            raise ValueError("the model is in training mode, where it drops paths at random; call model.eval() first")
        if overlap < 0 or (window is not None and window <= overlap):
            raise ValueError(f"a window of {window} frames with an overlap of {overlap} does not move on")
        self.model, self.short_edge, self.long_edge = model, short_edge, long_edge
        self.window, self.overlap, self.memory_budget = window, overlap, memory_budget
        self.most, self.min_score, self.categories = most, min_score, categories
        self.alike, self.patience, self.autocast = alike, patience, autocast
        self.frame_size: tuple[int, int] | None = None
        self.indices: list[int] = []  # of the frames below
        self.clip: list[Encoded] = []  # encoded, one by one: those of the window that is being filled
        self.fresh = 0  # how many of them no window has seen yet
        self.number = 0  # of windows so far
        self.masks: Float[Tensor, "N T h w"] = torch.zeros(0, 0, 1, 1)  # of the window, by the ids below
        self.ids: list[int] = []
        self.active: list[Seen] = []
        self.past: list[Seen] = []
        self.last_id = 0

    @torch.inference_mode()
    def feed(self, frame: Frame, prompt: Prompt | None = None) -> list[TrackFrame]:
        """The frames that are final once this one is known: those of a full window, but for what it shares with the
        next. Raises `ValueError` if the size of a frame differs, or objects are given: this model finds its own."""
        if prompt is not None and (prompt.objects() or prompt.remove):
            raise ValueError("this model finds objects by itself; masks are for models that follow given objects")
        self.frame_size = size = check_input(frame, Prompt(), begun=self.frame_size, objects=())
        self.model_size = short_edge_size(*size, short_edge=self.short_edge, long_edge=self.long_edge)
        device = next(self.model.parameters()).device
        with precision(self.autocast, device):
            image = padded(frame.rgb, self.model_size).to(device)
            self.padded_size = image.shape[1], image.shape[2]
            encoded = self.model.encode(image[None, None])
        # `finest` is for models with a head on top of these; it would double the memory of a window.
        self.clip.append(encoded._replace(finest=encoded.mask_features[:, :, :0]))
        self.indices.append(frame.index)
        self.fresh += 1
        if self.window is None:
            self.window = self._affordable(self.clip[0])
        return self._answer(keep=self.overlap) if len(self.clip) == self.window else []

    @torch.inference_mode()
    def finish(self) -> list[TrackFrame]:
        return self._answer(keep=0) if self.indices else []

    def tracks(self) -> list[Track]:
        """The `most` best (track, class) pairs of the video so far, best first."""
        everyone = self.past + self.active
        if not everyone:
            return []
        pairs = best_pairs(torch.stack([seen.probabilities for seen in everyone]), self.most, self.min_score)
        return [Track(everyone[i].id, category, score) for i, category, score in pairs]

    def _affordable(self, frame: Encoded) -> int:
        """How many frames of this size the memory budget allows, at least one more than the overlap."""
        each = sum(x.nbytes for x in (frame.mask_features, *frame.levels))
        return max(self.overlap + 1, self.memory_budget // each)

    def _answer(self, *, keep: int) -> list[TrackFrame]:
        """Decodes the window, links it, gives its frames away but for the last `keep`, which the next will share."""
        shown = len(self.indices) - keep
        shared = self.clip[shown:]
        if self.fresh:
            with precision(self.autocast, self.clip[0].mask_features.device):
                found = self.model.decode_last(join(self.clip), self._choose)
            self._link(Prediction(*(x[0].float() for x in found)))
            self.fresh, self.number = 0, self.number + 1
        known = {track.id: track for track in reversed(self.tracks())}  # of each the best class
        results = [self._frame(t, known) for t in range(shown)]
        self.indices, self.clip, self.masks = self.indices[shown:], shared, self.masks[:, shown:]
        return results

    def _choose(self, class_logits: Float[Tensor, "1 Q K1"]) -> Int[Tensor, " n"]:
        """The queries that are among the best (query, class) pairs of the window."""
        pairs = best_pairs(self._probabilities(class_logits[0].float()), self.most, self.min_score)
        return torch.tensor(sorted({i for i, _, _ in pairs}), dtype=torch.long, device=class_logits.device)

    def _probabilities(self, class_logits: Float[Tensor, "Q K1"]) -> Float[Tensor, "Q K"]:
        """Of the classes that are of interest; 0 for the others."""
        probabilities = class_logits.softmax(1)[:, :-1]
        if self.categories is not None:
            others = [k for k in range(probabilities.shape[1]) if k not in self.categories]
            probabilities[:, others] = 0
        return probabilities

    def _link(self, found: Prediction) -> None:
        """Gives each of the chosen queries the id of the track it continues, or a new one."""
        probabilities, embeddings = self._probabilities(found.class_logits), found.embeddings
        self.masks, inside = found.mask_logits, found.mask_logits > 0
        pairs = dict(link(self._similarity(embeddings, inside), threshold=self.alike))
        self.ids = []
        for i, own in enumerate(probabilities):
            old = self.active[pairs[i]] if i in pairs else None
            best = own if old is None else torch.maximum(old.probabilities, own)
            self.ids.append(self._new_id() if old is None else old.id)
            tail = inside[i, len(self.indices) - self.overlap :] if self.overlap else inside[i, :0]
            self.active.append(Seen(self.ids[-1], embeddings[i], best, tail, self.number))
        self._forget(set(pairs.values()))

    def _similarity(self, embeddings: Float[Tensor, "N C"], inside: Bool[Tensor, "N T h w"]) -> Float[Tensor, "N M"]:
        """Of what was found to the tracks that are not forgotten: cosine of the queries plus overlap of the masks."""
        if not self.active or not len(embeddings):
            return embeddings.new_zeros(len(embeddings), len(self.active))
        alike = cosine(embeddings, torch.stack([seen.embedding for seen in self.active]))
        last = [j for j, seen in enumerate(self.active) if seen.window == self.number - 1]
        if self.overlap and last:  # others were last seen on frames that this window does not have
            tails = torch.stack([self.active[j].tail for j in last])
            alike[:, last] += tube_iou(inside[:, : tails.shape[1]], tails)
        return alike

    def _forget(self, replaced: set[int]) -> None:
        """Drops what a newer entry replaces, and moves what was not found for long to the past, of which only those
        are kept that can still be among the best."""
        keep = [seen for j, seen in enumerate(self.active) if j not in replaced]
        self.active = [seen for seen in keep if self.number - seen.window <= self.patience]
        self.past += [seen for seen in keep if self.number - seen.window > self.patience]
        if self.past:
            pairs = best_pairs(torch.stack([seen.probabilities for seen in self.past]), self.most, self.min_score)
            self.past = [self.past[i] for i in sorted({i for i, _, _ in pairs})]

    def _new_id(self) -> int:
        self.last_id += 1
        return self.last_id

    def _frame(self, t: int, known: dict[int, Track]) -> TrackFrame:
        """The masks of frame t of the window, at the frame's own size."""
        assert self.frame_size is not None
        masks = masks_to_frame(self.masks[:, t], self.padded_size, self.model_size, self.frame_size).cpu().numpy()
        shown = {i: encode_rle(mask) for i, mask in zip(self.ids, masks, strict=True) if mask.any()}
        best = sorted((known[i] for i in shown if i in known), key=lambda track: -track.score)
        return TrackFrame(self.indices[t], self.frame_size, shown, tuple(best))


def best_pairs(probabilities: Float[Tensor, "N K"], most: int, min_score: float = 0.0) -> list[tuple[int, int, float]]:
    """The `most` largest entries above `min_score` as (row, column, value), largest first."""
    values, places = probabilities.flatten().topk(min(most, probabilities.numel()))
    classes = probabilities.shape[1]
    pairs = zip(places.tolist(), values.tolist())
    return [(place // classes, place % classes, value) for place, value in pairs if value > min_score]


def join(frames: list[Encoded]) -> Encoded:
    """Frames encoded one by one, each a clip of one frame, as one clip. Maps that are channels last stay so.

    Empties the list, map by map, so that a long video is not held twice."""
    maps = [[x.mask_features for x in frames], [x.finest for x in frames], *zip(*(x.levels for x in frames))]
    frames.clear()
    joined = []
    while maps:
        joined.append(torch.cat([x[0] for x in maps.pop(0)])[None])
    return Encoded(joined[0], joined[1], joined[2:])


def masks_to_frame(
    logits: Float[Tensor, "N h4 w4"], padded_size: tuple[int, int], model_size: tuple[int, int], size: tuple[int, int]
) -> Bool[Tensor, "N H W"]:
    """Mask logits at stride 4 as masks of the frame: up to the padded size, the padding cut off, to the frame's size,
    as the reference does it."""
    if not len(logits):
        return logits.new_zeros((0, *size), dtype=torch.bool)
    up = F.interpolate(logits[None], padded_size, mode="bilinear", align_corners=False)
    up = up[:, :, : model_size[0], : model_size[1]]
    return F.interpolate(up, size, mode="bilinear", align_corners=False)[0] > 0
