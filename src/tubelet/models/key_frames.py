"""A video through a model that segments key frames and carries their masks to the frames between (MPVSS).

Every frame is answered at once. What is held is one key frame: its masks at stride 4, its classes, its queries and the
picture its flow starts from. Nothing grows with the length of the video.
"""

from typing import Literal, get_args

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from tubelet.models.base import Session, check_input, precision
from tubelet.models.mpvss import MEAN, MPVSS, Key, class_scores, picture
from tubelet.nn.warp import resize_flow, warp
from tubelet.types import Frame, LabelFrame, Prompt
from tubelet.video.resize import band_to_frame, resized, rows_of_band, short_edge_size, winner

Carry = Literal["flow", "copy", "dis"]
SAVED = 3  # key frames that an adaptive session may have saved up
LONGEST = 4  # an adaptive session takes a key frame after so many intervals at the latest
BAND = 64  # rows of a frame whose classes are scored together
FEW = 8  # classes that are scored first
NOTICEABLE = 0.08  # a difference of colour, 0..1, that flow does not explain


class KeyFrameSession(Session[LabelFrame]):
    """`interval`: every so many frames is a key frame; 1 segments each frame by itself; None is 5, or 1 where masks are
    to be carried along flow that the model does not estimate. `carry`: how the frames between get theirs: along the
    model's own flow, along DIS flow (Kroeger et al., 2016; no training), or as they were.
    `short_edge`, `long_edge`: frames are brought to this size (enlarged too; 1024 and 2048 for Cityscapes).

    `tolerance`: masks that together can change no class's score by more than this, 0..1, at any pixel are left out,
    which changes at most pixels where the best two classes are that close; 0 keeps all.

    `doubt`: take key frames when they are needed (None: as they come). A frame becomes a key frame if more than this
    share of the picture, 0..1, is not what the flow says it is: at stride 8 the key picture is carried along the flow
    of the winning masks, and places where it then differs noticeably (0.08 of the range) from the frame are counted. On
    average there is still at most one key frame per `interval`: a session saves up to three, and takes one after four
    intervals at the latest.

    Raises `ValueError` for a model in training mode, or without flow where flow is asked for, or other nonsense."""

    def __init__(
        self,
        model: MPVSS,
        *,
        interval: int | None = None,
        carry: str = "flow",
        short_edge: int = 480,
        long_edge: int = 853,
        tolerance: float = 0.01,
        doubt: float | None = None,
        autocast: torch.dtype | None = None,
    ):
        if interval is None:
            interval = 1 if carry == "flow" and model.motion is None else 5
        check_options(model, interval, carry, doubt)
        self.model, self.interval, self.carry = model, interval, carry
        self.short_edge, self.long_edge = short_edge, long_edge
        self.tolerance, self.doubt, self.autocast = tolerance, doubt, autocast
        self.frame_size: tuple[int, int] | None = None
        self.key: Key | None = None
        self.choice: Int[Tensor, " n"] = torch.zeros(0, dtype=torch.long)  # queries of the key that matter
        self.since = 0  # frames since the key
        self.saved = 0.0  # key frames
        self.keys = 0  # so far

    @torch.inference_mode()
    def feed(self, frame: Frame, prompt: Prompt | None = None) -> list[LabelFrame]:
        """The class of every pixel, an index from 0, at once.

        Raises `ValueError` if the size of a frame differs, or objects are given: there are none here."""
        if prompt is not None and (prompt.objects() or prompt.remove):
            raise ValueError("this model labels every pixel by itself; masks are for models that follow given objects")
        self.frame_size = size = check_input(frame, Prompt(), begun=self.frame_size, objects=())
        device = next(self.model.parameters()).device
        image = resized(frame.rgb, short_edge_size(*size, short_edge=self.short_edge, long_edge=self.long_edge))
        image = image.to(device)[None]
        with precision(self.autocast, device):
            masks = self._masks(image)
        assert self.key is not None
        logits = self.key.prediction.class_logits[0, self.choice].float()
        labels = label_map(logits, masks.float(), (image.shape[2], image.shape[3]), size)
        return [LabelFrame(labels, frame.index)]

    def finish(self) -> list[LabelFrame]:
        """Nothing is owed."""
        return []

    def _masks(self, image: Float[Tensor, "1 3 H W"]) -> Float[Tensor, "n h4 w4"]:
        """The mask logits of the frame: carried, or found anew."""
        if self.key is None:
            return self._new_key(image)
        self.since, self.saved = self.since + 1, min(self.saved + 1 / self.interval, SAVED)
        if self.doubt is None and self.since >= self.interval:
            return self._new_key(image)
        if self.carry == "copy":
            return self.key.prediction.mask_logits[0, self.choice, 0]
        flows = self._flows(image)
        masks = self.model.carry(self.key.prediction.mask_logits[:, self.choice], flows)[0, :, 0]
        if self.doubt is not None and self.saved >= 1:
            late = self.since >= LONGEST * self.interval
            if late or self._unexplained(image, flows[0], masks) > self.doubt:
                self.saved -= 1
                return self._new_key(image)
        return masks

    def _new_key(self, image: Float[Tensor, "1 3 H W"]) -> Float[Tensor, "n h4 w4"]:
        self.key = self.model.segment(image)
        self.choice = relevant(self.key, self.tolerance)
        self.since, self.keys = 0, self.keys + 1
        return self.key.prediction.mask_logits[0, self.choice, 0]

    def _flows(self, image: Float[Tensor, "1 3 H W"]) -> Float[Tensor, "1 _ 2 _ _"]:
        """From the frame to the key frame, of each query that matters, or one for all."""
        assert self.key is not None
        if self.carry == "flow":
            return self.model.flows(image, self.key.picture, self.key.prediction.embeddings, self.choice)
        return dis_flow(picture(image), self.key.picture)[:, None]

    def _unexplained(
        self, image: Float[Tensor, "1 3 H W"], flows: Float[Tensor, "_ 2 _ _"], masks: Float[Tensor, "n h4 w4"]
    ) -> float:
        """The share of the picture that looks otherwise than the key picture does, carried along the flow of the mask
        that wins each place."""
        assert self.key is not None
        now, then = (F.avg_pool2d(x.float(), 4) for x in (picture(image), self.key.picture))  # stride 8
        flows = resize_flow(flows.float(), (now.shape[2], now.shape[3]))
        if len(flows) > 1:
            sure = self.key.prediction.class_logits[0, self.choice].softmax(1)[:, :-1].amax(1)[:, None, None]
            best = (F.avg_pool2d(masks.float().sigmoid()[None], 2)[0] * sure).argmax(0)
            flows = flows.gather(0, best.expand(1, 2, -1, -1))
        difference = (warp(then, flows, grid=self.model.grid) - now).abs().mean(1)
        return float((difference > NOTICEABLE).float().mean())


def check_options(model: MPVSS, interval: int, carry: str, doubt: float | None) -> None:
    """Raises `ValueError` for options of a session that make no sense."""
    if model.training:
        raise ValueError("the model is in training mode, where it drops paths at random; call model.eval() first")
    if carry not in get_args(Carry):
        raise ValueError(f"carry must be one of {', '.join(get_args(Carry))}, got {carry!r}")
    if interval < 1:
        raise ValueError(f"the key frame interval must be at least 1, got {interval}")
    if carry == "flow" and model.motion is None and interval > 1:
        raise ValueError(
            "this model estimates no flow; every frame must be a key frame (interval 1), or masks be carried along "
            "classical flow (carry: dis) or not at all (copy)"
        )
    if doubt is not None and (carry == "copy" or not 0 <= doubt <= 1):
        raise ValueError("doubt is a share of the picture, 0..1, that flow does not explain; with copies there is none")


def relevant(key: Key, tolerance: float) -> Int[Tensor, " n"]:
    """The queries of a key frame that matter: without the rest no class's score changes by more than `tolerance` at any
    place. At least one."""
    classes = key.prediction.class_logits[0].float().softmax(1)[:, :-1].amax(1)
    reach = classes * key.prediction.mask_logits[0].float().amax((1, 2, 3)).sigmoid()  # the most it adds to any score
    order = reach.argsort()
    dropped: Bool[Tensor, " Q"] = reach[order].cumsum(0) <= tolerance
    dropped[-1] = False
    return order[~dropped].sort().values


def dis_flow(now: Float[Tensor, "1 3 h w"], then: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 2 h w"]:
    """Classical optical flow from one picture (as for the flow module) to another, (x, y) in its pixels."""
    mean = np.asarray(MEAN, np.float32)
    grey = [
        cv2.cvtColor(
            ((x[0].permute(1, 2, 0).float().cpu().numpy() + mean).clip(0, 1) * 255).astype(np.uint8), cv2.COLOR_RGB2GRAY
        )
        for x in (now, then)
    ]
    size = tuple(max(32, side) for side in grey[0].shape)  # DIS needs 32 pixels
    grey = [cv2.resize(x, size[::-1]) for x in grey]
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = dis.calc(grey[0], grey[1], None)  # type: ignore[call-overload]
    out = torch.from_numpy(flow).permute(2, 0, 1)[None].to(now.device)
    return resize_flow(out, (now.shape[2], now.shape[3]))


def label_map(
    class_logits: Float[Tensor, "n K1"],
    mask_logits: Float[Tensor, "n h4 w4"],
    model_size: tuple[int, int],
    size: tuple[int, int],
) -> UInt8[np.ndarray, "H W"]:
    """The class with the highest score at every pixel of a frame of `size` (H, W), seen by the model at `model_size`
    plus padding: masks enlarged, scored, cut, and the scores brought to the frame's size.

    In bands of rows, so that the scores of all classes never stand at full size, and of the classes that can win there
    alone."""
    h, w = model_size

    def band_of_classes(band: range) -> Tensor:
        if size == model_size:
            return best_classes(class_logits, enlarged(mask_logits, band)[:, :, :w])
        seen = rows_of_band(h, size[0], band, align_corners=False)
        scores = class_scores(class_logits, enlarged(mask_logits, seen)[:, :, :w])
        few = can_win(scores)
        found = band_to_frame(lambda first, last: scores[few], h, size, band, align_corners=False)
        return few[winner(found).long()].to(torch.uint8)

    bands = [range(top, min(top + BAND, size[0])) for top in range(0, size[0], BAND)]
    return torch.cat([band_of_classes(band) for band in bands]).cpu().numpy()


def enlarged(mask_logits: Float[Tensor, "n h4 w4"], rows: range) -> Float[Tensor, "n _ W"]:
    """These rows of masks enlarged by four."""
    top, bottom = max(rows.start // 4 - 1, 0), -(-rows.stop // 4) + 1  # with a neighbour on both sides
    part = F.interpolate(mask_logits[None, :, top:bottom], scale_factor=4, mode="bilinear", align_corners=False)[0]
    return part[:, rows.start - 4 * top : rows.stop - 4 * top]


def best_classes(class_logits: Float[Tensor, "n K1"], mask_logits: Float[Tensor, "n h w"]) -> UInt8[Tensor, "h w"]:
    """The class with the highest score at each place.

    The few that reach highest anywhere are scored first; of the others, those alone that reach the lowest of the best
    scores found so."""
    probability = class_logits.softmax(1)[:, :-1]
    inside = mask_logits.sigmoid().flatten(1)
    reach = inside.amax(1) @ probability  # no class has a higher score than this
    few = reach.topk(min(FEW, len(reach))).indices
    best, which = (probability[:, few].T @ inside).max(0)
    found, others = few[which], reach > best.min()
    others[few] = False
    if rest := others.nonzero()[:, 0].tolist():
        better, which = (probability[:, rest].T @ inside).max(0)
        found = torch.where(better > best, which.new_tensor(rest)[which], found)
    return found.to(torch.uint8).unflatten(0, mask_logits.shape[1:])


def can_win(scores: Float[Tensor, "K h w"]) -> Int[Tensor, " k"]:
    """The classes that may have the highest score somewhere, once the scores are enlarged.

    An enlarged score lies between those of the four places around it. So among any four neighbours some class keeps at
    least the largest of the classes' smallest scores there, and a class that is below that everywhere never wins."""
    if min(scores.shape[1:]) < 2:
        return torch.arange(len(scores), device=scores.device)
    least = -F.max_pool2d(-scores, 2, stride=1)
    return (scores.amax((1, 2)) >= least.amax(0).min()).nonzero()[:, 0]
