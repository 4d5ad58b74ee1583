"""Tubelet: segment, track and label what moves in a video.

model = tubelet.load("aost")                  # a model by name
session = model.session()                     # one video on its way through it
for frame, result in tubelet.follow(tubelet.read("clip.mp4"), session, "first.png"):
    result.labels                             # (H, W) object ids
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tubelet.run import follow as follow
    from tubelet.run import label_video as label_video
    from tubelet.types import Frame as Frame
    from tubelet.types import Prompt as Prompt
    from tubelet.video.read import read as read
    from tubelet.weights import load as load

__version__ = "0.1.0"

# The public names come from here on first use, so that `import tubelet` and `tubelet --help` load nothing heavy.
_HOME = {
    "follow": "tubelet.run",
    "label_video": "tubelet.run",
    "Frame": "tubelet.types",
    "Prompt": "tubelet.types",
    "read": "tubelet.video.read",
    "load": "tubelet.weights",
}


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'tubelet' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*_HOME, "__version__"]
