"""The contract of a model: `loss` for training, `session` for using it on one video."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8

from tubelet.types import BACKGROUND, VOID, Frame, LabelFrame, Prompt, Track, TrackFrame, check_prompt

Result = TypeVar("Result", bound=LabelFrame | TrackFrame)


class Session(ABC, Generic[Result]):
    """One video on its way through a model. The session contains the model and owns all state.

    Two sessions may share one model. Results come out in frame order, each exactly once, at the size of the frame.
    """

    @abstractmethod
    def feed(self, frame: Frame, prompt: Prompt | None = None) -> list[Result]:
        """Takes the next frame, and what the user says about it; returns the results that are now final (maybe none).

        Raises `ValueError` if the prompt does not fit the frame."""

    @abstractmethod
    def finish(self) -> list[Result]:
        """Says that the video has ended; returns the results still owed."""


class TrackSession(Session[TrackFrame]):
    """A session that finds, classifies and tracks objects by itself."""

    @abstractmethod
    def tracks(self) -> list[Track]:
        """What was found, best first; final after `finish`. Ids are those of the frames' masks."""


def precision(autocast: torch.dtype | None, device: torch.device) -> AbstractContextManager:
    """Mixed precision on a device, or nothing for None."""
    return nullcontext() if autocast is None else torch.autocast(device.type, autocast)


def check_input(
    frame: Frame, prompt: Prompt, *, begun: tuple[int, int] | None, objects: tuple[int, ...]
) -> tuple[int, int]:
    """The size (H, W) of the frame. `begun`: that of the video so far; `objects`: the ids being followed.

    Raises `ValueError`, before anything is changed, if the frame or the mask has another size than the video, or an
    object to remove is not followed."""
    size = frame.rgb.shape[0], frame.rgb.shape[1]
    if begun is not None and size != begun:
        raise ValueError(
            f"frame {frame.index} is {size[1]}x{size[0]} but the video began as {begun[1]}x{begun[0]}; "
            f"start a new session for a video of another size"
        )
    check_prompt(prompt, size)
    for i in prompt.remove:
        check_followed(i, objects)
    return size


def check_followed(object_id: int, objects: tuple[int, ...]) -> None:
    """Raises `ValueError` unless the object is one of those being followed."""
    if object_id not in objects:
        raise ValueError(f"object {object_id} is not being followed; those that are: {objects}")


def paste(given: UInt8[np.ndarray, "H W"], below: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """The given objects over other labels; background and void let them through."""
    return np.where((given == BACKGROUND) | (given == VOID), below, given)
