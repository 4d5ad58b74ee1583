"""SyncVIS: synchronized video-frame modelling for video instance segmentation (Zheng et al., NeurIPS 2024).

What is unusual about it:

- Two sets of queries run through the decoder side by side: frame queries X_f (T x N x C), each of which sees its own
  frame, know what things look like; video queries X_v (N x C), which see all frames, know how they move (equation 1).
- After every layer the two sets exchange what they found: the most confident few of each become the keys and values of
  the other, which moves towards them by a small step (`Exchange`, equations 2 and 3).
- Training cuts the predictions of a clip into sub-clips of a few frames, each matched and optimised on its own
  (`loss/subclips.py`, equation 4); the decoder runs once.

The video queries are the queries of the host, a Mask2Former for clips; the frame queries, their layers and the exchange
come on top. The answer for the video is that of the video queries.

The authors' published code does not run and contradicts the paper in places; here the paper decides. Where it leaves a
choice, the choice is an argument, and its default is explained where it is made.
"""

from copy import deepcopy
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tubelet.loss.points import POINTS, Points
from tubelet.loss.tubes import deep_supervision, frame_loss
from tubelet.models import mask2former
from tubelet.models.mask2former import Encoded, Mask2Former, clip_names, generators, pad_masks, prepare, video_losses
from tubelet.nn.feed_forward import FeedForward
from tubelet.nn.mask_decoder import Attention, Branch, Choice, Prediction, frame_by_frame
from tubelet.types import Clip, TubeLabels

if TYPE_CHECKING:
    from tubelet.models.clips import ClipSession

Selection = Literal["class", "query", "mask"]
Direction = Literal["both", "frame_to_video", "video_to_frame", "none"]
Order = Literal["together", "frame_to_video_first", "video_to_frame_first"]
Structure = Literal["synchronous", "cascade"]


class Decoded(NamedTuple):
    """The predictions of the learned queries and after each layer. `frame`: with the frames folded into the batch, b
    before t, so that T is 1; empty if there are no frame queries, and likewise `video`."""

    video: list[Prediction]
    frame: list[Prediction]


# ---- the exchange, for any host with two sets of queries


class Exchange(nn.Module):
    """Equations 2 and 3: the `keep` best queries of each set, through a feed-forward network, become keys and values
    for the other set, which takes `momentum` of what it finds and keeps the rest of itself.

    One attention serves both directions and one exchange serves all layers: so the paper's count of parameters comes
    out. `direction` (Table 5) leaves out one way or both. `order`: both ways see the queries as they came
    (`together`, equations 2 and 3 as written), or the second way sees what the first has made of them."""

    def __init__(
        self,
        channels: int = 256,
        *,
        keep: int = 10,
        momentum: float = 0.05,
        direction: Direction = "both",
        order: Order = "together",
        heads: int = 8,
        hidden: int = 2048,
    ):
        super().__init__()
        self.keep, self.momentum, self.direction, self.order = keep, momentum, direction, order
        self.attention = Attention(channels, heads)
        self.from_frame = FeedForward(channels, hidden)
        self.from_video = FeedForward(channels, hidden)

    def forward(
        self,
        frame: Float[Tensor, "B T N C"],
        video: Float[Tensor, "B M C"],
        frame_scores: Float[Tensor, "B T N"],
        video_scores: Float[Tensor, "B T M"],
    ) -> tuple[Float[Tensor, "B T N C"], Float[Tensor, "B M C"]]:
        """New frame and video queries. `frame_scores`: who of each frame is worth a look for the video queries;
        `video_scores`: who of the video is worth a look for each frame."""
        if self.order == "frame_to_video_first":
            video = self.to_video(frame, video, frame_scores)
            return self.to_frame(frame, video, video_scores), video
        if self.order == "video_to_frame_first":
            frame = self.to_frame(frame, video, video_scores)
            return frame, self.to_video(frame, video, frame_scores)
        return self.to_frame(frame, video, video_scores), self.to_video(frame, video, frame_scores)

    def to_frame(
        self, frame: Float[Tensor, "B T N C"], video: Float[Tensor, "B M C"], video_scores: Float[Tensor, "B T M"]
    ) -> Float[Tensor, "B T N C"]:
        """Equation 2: each frame looks at the best video queries."""
        if self.direction not in ("both", "video_to_frame"):
            return frame
        batch, time = frame.shape[:2]
        best = gather(video[:, None].expand(-1, time, -1, -1), self.choose(video_scores))
        found = self.look(frame.flatten(0, 1), self.from_video(best).flatten(0, 1))
        return self.step(frame, found.unflatten(0, (batch, time)))

    def to_video(
        self, frame: Float[Tensor, "B T N C"], video: Float[Tensor, "B M C"], frame_scores: Float[Tensor, "B T N"]
    ) -> Float[Tensor, "B M C"]:
        """Equation 3: the video looks at the best queries of all frames, `keep` from each."""
        if self.direction not in ("both", "frame_to_video"):
            return video
        best = gather(frame, self.choose(frame_scores))
        return self.step(video, self.look(video, self.from_frame(best).flatten(1, 2)))

    def choose(self, scores: Float[Tensor, "B T N"]) -> Int[Tensor, "B T k"]:
        """Who is kept: the `keep` best, or all if there are fewer."""
        return scores.topk(min(self.keep, scores.shape[2]), dim=2).indices

    def look(self, queries: Float[Tensor, "B n C"], best: Float[Tensor, "B k C"]) -> Float[Tensor, "B n C"]:
        return self.attention(queries, best, best)

    def step(self, old: Tensor, found: Tensor) -> Tensor:
        return self.momentum * found + (1 - self.momentum) * old


def gather(queries: Float[Tensor, "B T N C"], chosen: Int[Tensor, "B T k"]) -> Float[Tensor, "B T k C"]:
    """The chosen queries of each frame."""
    return queries.gather(2, chosen[..., None].expand(-1, -1, -1, queries.shape[3]))


def class_scores(class_logits: Float[Tensor, "*_ K1"]) -> Float[Tensor, "*_"]:
    """How sure a query is of its class, "no object" (the last) aside. The paper says "confidence scores provided by
    the prediction head"; the largest probability is the natural reading."""
    return class_logits.softmax(-1)[..., :-1].amax(-1)


def similarity_scores(
    frame: Float[Tensor, "B T N C"], video: Float[Tensor, "B M C"]
) -> tuple[Float[Tensor, "B T N"], Float[Tensor, "B T M"]]:
    """How alike each is to the most similar of the other set, frame by frame, by cosine (Table 7)."""
    alike = F.normalize(frame, dim=3) @ F.normalize(video, dim=2).transpose(1, 2)[:, None]
    return alike.amax(3), alike.amax(2)


# ---- the decoder


class SyncVIS(nn.Module):
    """The paper's values are the defaults: N = `host.queries` queries in either set, N_k = 10 of them exchanged, lambda
    = 0.05.

    `selection` (Table 7): the most confident (`class`), or the most similar by their embeddings (`query`) or by their
    mask embeddings (`mask`). `structure` (Table 6): `synchronous`, or a `cascade`: the frame queries run through all
    their layers first, and the video queries look at what became of them after each of their own. `branches`: `video`
    is the host alone, `frame` makes tubes of the frame queries of one number. `shared`: both sets use the layers of the
    host; separate is what the paper's count of parameters (245 M against 229 M) needs. `direction`, `order`: see
    `Exchange`. The heads serve both sets."""

    def __init__(
        self,
        host: Mask2Former,
        *,
        keep: int = 10,
        momentum: float = 0.05,
        selection: Selection = "class",
        direction: Direction = "both",
        order: Order = "together",
        structure: Structure = "synchronous",
        branches: Literal["both", "video", "frame"] = "both",
        shared: bool = False,
    ):
        super().__init__()
        self.selection, self.structure, self.branches = selection, structure, branches
        self.host = host
        video = host.decoder
        self.query_content = nn.Parameter(video.query_content.detach().clone())
        self.query_position = nn.Parameter(video.query_position.detach().clone())
        self.layers = None if shared else deepcopy(video.layers)
        channels, hidden = self.query_content.shape[1], host.hidden
        self.exchange = Exchange(
            channels, keep=keep, momentum=momentum, direction=direction, order=order, hidden=hidden
        )

    def start_frames_like_video(self) -> None:
        """Gives the frame queries and their layers the weights of the video's: what is done after loading a Mask2Former
        (trained on images, its queries serve as either)."""
        video = self.host.decoder
        self.query_content.data.copy_(video.query_content)
        self.query_position.data.copy_(video.query_position)
        if self.layers is not None:
            self.layers.load_state_dict(video.layers.state_dict())

    def encode(self, images: Float[Tensor, "B T 3 H W"]) -> Encoded:
        """Normalised RGB, padded to sides that are multiples of 32. Frames do not see each other yet."""
        return self.host.encode(images)

    def decode(self, clip: Encoded) -> Decoded:
        """Ten predictions of either set: what training supervises."""
        video, frame = self.refine(clip, [clip.mask_features] * len(clip.levels))
        return Decoded(
            [] if self.branches == "frame" else video.finish(clip.mask_features),
            [] if self.branches == "video" else frame.finish(fold(clip.mask_features)),
        )

    def decode_last(self, clip: Encoded, choose: Choice | None = None) -> Prediction:
        """The last prediction for the video, without full masks in between (see `MaskDecoder.last`)."""
        small = self.host.decoder.resized(clip.mask_features, clip.levels)
        video, frame = self.refine(clip, small, keep=False)
        if self.branches != "frame":
            return video.last(clip.mask_features, choose)
        found = tubes(frame.last(fold(clip.mask_features)), clip)
        if choose is None:
            return found
        wanted = choose(found.class_logits)
        return Prediction(*(x[:, wanted] for x in found))

    def loss(
        self,
        clip: Clip,
        labels: TubeLabels,
        *,
        subclip: int | None = 3,
        choose: Literal["all", "adjacent"] = "all",
        most: int | None = None,
        points: Points = POINTS,
    ) -> dict[str, Float[Tensor, ""]]:
        """Equation 5: the losses of the video queries on sub-clips of `subclip` frames (equation 4; 3 for YouTube-VIS,
        2 for OVIS; None: the clip as a whole), and those of the frame queries, each frame matched by itself, as
        `frame.NAME`; summed one to one, as in the authors' code. `choose`, `most`: which sub-clips."""
        decoded = self.decode(self.encode(prepare(clip.images)))
        losses, names = {}, clip_names(clip)
        cut = {"subclip": subclip, "choose": choose, "most": most}
        if decoded.video:
            chance = generators(clip)
            losses = video_losses(decoded.video, labels, **cut, points=points, generator=chance, names=names)
        if decoded.frame:
            options = {"points": points, "generator": generators(clip), "names": names}
            size, masks = clip.images.shape[:2], pad_masks(labels.masks)
            frame = deep_supervision(
                [(x.class_logits.unflatten(0, size), x.mask_logits[:, :, 0].unflatten(0, size)) for x in decoded.frame],
                lambda logits, found: frame_loss(logits, found, labels.classes, masks, **options),
            )
            losses |= {f"frame.{name}": value for name, value in frame.items()}
        return losses

    def session(self, **options) -> "ClipSession":
        """One video on its way through this model; `options` are those of `ClipSession`."""
        from tubelet.models.clips import ClipSession

        return ClipSession(self, **options)

    def refine(
        self, clip: Encoded, features: list[Float[Tensor, "B T C _ _"]], *, keep: bool = True
    ) -> tuple[Branch, Branch]:
        """Both sets, video and frame, through all layers. `features`: the mask features, at sizes good enough to look
        through. `keep`: the predictions on the way."""
        size = clip.mask_features.shape[:2]
        video = self.host.decoder.branch(clip.levels, features, keep=keep)
        frame = self.frame_branch(video, size.numel())
        count = range(len(video.layers))
        if self.branches != "both":
            (video if self.branches == "video" else frame).run()
        elif self.structure == "synchronous":
            for i in count:
                video.advance(i)
                frame.advance(i)
                scores = self.scores(frame, video, size)
                new, video.queries = self.exchange(frame.queries.unflatten(0, size), video.queries, *scores)
                frame.queries = new.flatten(0, 1)
        else:
            frame.run()
            for i in count:
                video.advance(i)
                scores = self.scores(frame, video, size)[0]
                video.queries = self.exchange.to_video(frame.queries.unflatten(0, size), video.queries, scores)
        return video, frame

    def frame_branch(self, video: Branch, count: int) -> Branch:
        """As many sets of frame queries as there are frames, before the first layer."""
        layers = video.layers if self.layers is None else self.layers
        memories, features = [frame_by_frame(x) for x in video.memories], [fold(x) for x in video.features]
        start = self.query_content.expand(count, -1, -1)
        return Branch(start, self.query_position, layers, video.heads, memories, features, video.keep)

    def scores(
        self, frame: Branch, video: Branch, size: torch.Size
    ) -> tuple[Float[Tensor, "B T N"], Float[Tensor, "B T M"]]:
        """Who is worth a look: of the frame queries for the video, of the video queries for each frame."""
        heads, unfolded = video.heads, frame.queries.unflatten(0, size)
        if self.selection == "query":
            return similarity_scores(unfolded, video.queries)
        if self.selection == "mask":
            return similarity_scores(heads.mask_vectors(unfolded), heads.mask_vectors(video.queries))
        seen = class_scores(heads.class_logits(unfolded))
        return seen, class_scores(heads.class_logits(video.queries))[:, None].expand(-1, size[1], -1)


def fold(x: Float[Tensor, "B T *_"]) -> Float[Tensor, "n 1 *_"]:
    """Each frame as a clip of its own."""
    return x.flatten(0, 1)[:, None]


def tubes(frame: Prediction, clip: Encoded) -> Prediction:
    """The predictions of folded frames, joined by the number of the query; class and embedding are means."""
    classes, masks, embeddings = (x.unflatten(0, clip.mask_features.shape[:2]) for x in frame)
    return Prediction(classes.mean(1), masks[:, :, :, 0].transpose(1, 2), embeddings.mean(1))


def build(name: str, classes: int = 40, queries: int | None = None, *, frozen_norm: bool = True, **options) -> SyncVIS:
    """`syncvis-<backbone>` with random weights; `options` are those of `SyncVIS`.

    Raises `KeyError` for a name that is not one of `names()`."""
    host = mask2former.build(name.replace("syncvis-", "mask2former-vis-", 1), classes, queries, frozen_norm=frozen_norm)
    return SyncVIS(host, **options)


def names() -> list[str]:
    """All variants: one for each backbone of Mask2Former."""
    return [name.replace("mask2former-vis-", "syncvis-", 1) for name in mask2former.VARIANTS]
