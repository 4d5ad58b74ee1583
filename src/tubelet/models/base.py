"""The contract of a model: `loss` for training, `session` for using it on one video."""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from tubelet.types import Frame, Prompt

Result = TypeVar("Result")


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
