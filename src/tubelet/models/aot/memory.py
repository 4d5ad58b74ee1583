"""What a session remembers: long-term frames under a cap, and one group of identities on its way through a video."""

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from tubelet.models.aot.blocks import Memory
from tubelet.models.aot.model import AOT, IDENTITIES, Encoded


class LongTermMemory:
    """The remembered frames of one block, keys and values each in one tensor (section 4.2, frames m).

    `cap` bounds the number of frames: when it is passed, the oldest *predicted* frame goes. Frames whose masks were
    given are never dropped, so more of them than `cap` are all kept. None: no bound (the paper's policy)."""

    def __init__(self, cap: int | None):
        self.cap = cap
        self.given: list[bool] = []  # of each frame, oldest first
        self.memory: Memory | None = None

    def add(self, frame: Memory, *, given: bool) -> None:
        """Appends a frame of hw tokens, dropping another where the cap asks for it."""
        kept = self.memory
        full = self.cap is not None and len(self.given) >= self.cap
        if kept is not None and full and False in self.given:
            oldest = self.given.index(False)
            n, start = frame.key.shape[1], oldest * frame.key.shape[1]
            kept = Memory(*(torch.cat((x[:, :start], x[:, start + n :]), dim=1) for x in kept))
            del self.given[oldest]
        elif full and not given:
            return  # every remembered frame was given: a predicted one has no place
        self.memory = frame if kept is None else Memory(*(torch.cat(pair, dim=1) for pair in zip(kept, frame)))
        self.given.append(given)

    def read(self) -> Memory:
        assert self.memory is not None, "a frame with masks comes before any prediction"
        return self.memory


class Group:
    """Up to ten objects that share one identity bank, and all that is remembered of them.

    More objects than that are several groups on the same encoded frames (reference 1.9)."""

    def __init__(self, model: AOT, *, gap: int | None, cap: int | None):
        self.model, self.gap = model, gap
        self.slots: dict[int, int] = {}  # object id -> identity 1..10
        self.retired: set[int] = set()  # identities whose object was removed; memory still knows them
        self.long = [LongTermMemory(cap) for _ in range(model.depth)]
        self.short: list[Memory] = []
        self.last: tuple[Encoded, Tensor] | None = None  # the previous frame and its identity embedding
        self.last_remembered = 0

    @property
    def full(self) -> bool:
        return len(self.slots) + len(self.retired) >= IDENTITIES

    def assign(self, object_id: int) -> None:
        """Gives an object the next identity."""
        assert not self.full
        self.slots[object_id] = len(self.slots) + len(self.retired) + 1

    def remove(self, object_id: int) -> None:
        """Forgets an object; its identity is not used again, since the memory still holds it."""
        self.retired.add(self.slots.pop(object_id))

    def identities(self, labels: Integer[Tensor, "H W"]) -> Integer[Tensor, "1 H W"]:
        """A map of object ids -> identities of this group; everything else is background."""
        table = torch.zeros(256, dtype=torch.long, device=labels.device)
        for object_id, slot in self.slots.items():
            table[object_id] = slot
        return table[labels.long()][None]

    def refer(self, frame: Encoded, labels: Integer[Tensor, "H W"], step: int) -> None:
        """A frame whose masks are given (object ids at the network's size): remembered at every depth."""
        identity = self.model.embed_ids(self.identities(labels))
        _, memory = self.model.refer(frame, identity)
        for long, m in zip(self.long, memory, strict=True):
            long.add(m, given=True)
        self.short, self.last, self.last_remembered = memory, (frame, identity), step

    def predict(self, frame: Encoded, depth: int) -> Float[Tensor, "n1 h4 w4"]:
        """Logits of the background and of this group's objects, in the order of `slots`, at stride 4."""
        self._deepen(depth)
        memory = [(self.long[i].read(), self.short[i]) for i in range(depth)]
        outputs, self.matched = self.model.propagate(frame, memory)
        logits = self.model.decode(frame, outputs)[0]
        self.frame = frame
        return logits[[0, *self.slots.values()]]

    def memorize(self, labels: Integer[Tensor, "H W"], step: int) -> None:
        """The masks of the frame just predicted: the new short-term memory, and every `gap` frames a long-term one."""
        identity = self.model.embed_ids(self.identities(labels))
        self.short, self.last = self.model.memorize(self.matched, identity), (self.frame, identity)
        if self.gap is not None and step - self.last_remembered >= self.gap:
            for long, m in zip(self.long, self.short):
                long.add(m, given=False)
            self.last_remembered = step

    def _deepen(self, depth: int) -> None:
        """After a change to a deeper network, the deeper blocks meet the previous frame as a frame with given masks."""
        if len(self.short) < depth:
            assert self.last is not None
            _, memory = self.model.refer(*self.last, depth)
            self.short = [*self.short, *memory[len(self.short) :]]


def merge_groups(logits: list[Float[Tensor, "_ h w"]]) -> Float[Tensor, "n1 h w"]:
    """One set of logits for the objects of several groups (reference 1.9).

    A place is background if every group says so; the objects of all groups follow. One group is left as it is."""
    if len(logits) == 1:
        return logits[0]
    probabilities = [x.float().softmax(0) for x in logits]
    background = torch.stack([p[0] for p in probabilities]).prod(0, keepdim=True)
    merged = torch.cat([background, *(p[1:] for p in probabilities)]).clamp(1e-5, 1 - 1e-5)
    return merged.logit()
