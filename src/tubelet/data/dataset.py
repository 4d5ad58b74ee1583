"""What every video data set is once it has been read: a list of `VideoItem`, each one video with its masks.

Only paths are held; frames and masks are read when asked for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from tubelet.types import BACKGROUND, MAX_OBJECT_ID, VOID, Frame, Prompt, visible
from tubelet.video.read import IMAGE_SUFFIXES, natural_key, read_image
from tubelet.viz.palette import VOC

WHITE = 0xFFFFFF


@dataclass(frozen=True)
class VideoItem:
    """One video of a data set.

    `frame_paths` are in order of time, `mask_paths` maps the index of a frame to its mask (not every frame
    has one). `prompt_frames` are the indices whose masks may be given to a model: the first, and in
    YouTube-VOS those in which an object enters. `evaluated` are the indices that are scored or submitted;
    None means all. `binary` merges all objects into object 1 (DAVIS 2016)."""

    name: str
    frame_paths: Sequence[Path]
    mask_paths: dict[int, Path]
    prompt_frames: Sequence[int] = (0,)
    evaluated: Sequence[int] | None = None
    binary: bool = False

    def __len__(self) -> int:
        return len(self.frame_paths)

    @cached_property
    def frame_names(self) -> list[str]:
        """The stems of the frames' files, which are also those of their masks."""
        return [path.stem for path in self.frame_paths]

    def load_frame(self, index: int) -> Frame:
        """Frame `index`, RGB. Raises `FileNotFoundError`, or `ValueError` if the file is damaged."""
        return Frame(read_image(self.frame_paths[index]), index, name=self.frame_names[index])

    def load_mask(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """The object ids of frame `index`, at its size; 255 is void.

        Raises `FileNotFoundError` if that frame has no mask, `ValueError` if it is no id mask or of another size."""
        if index not in self.mask_paths:
            raise FileNotFoundError(
                f"frame {self.frame_names[index]} of {self.name} has no mask; "
                f"the frames with masks are those in `mask_paths` ({len(self.mask_paths)} of {len(self)})"
            )
        labels = read_mask(self.mask_paths[index], binary=self.binary)
        width, height = image_size(self.frame_paths[index])
        if labels.shape != (height, width):
            raise ValueError(
                f"{self.mask_paths[index]} is {labels.shape[1]}x{labels.shape[0]} but its frame "
                f"{self.frame_paths[index].name} is {width}x{height}; give the mask at the frame's own size"
            )
        return labels

    def prompts(self) -> dict[int, Prompt]:
        """Frame index -> the mask that a model is given there.

        A later mask says only the objects that enter with it: those known already are the model's to follow.
        Raises `ValueError` if no object is given at all."""
        prompts, known = {}, {BACKGROUND, VOID}
        for index in self.prompt_frames:
            labels = self.load_mask(index)
            entering = set(visible(labels)) - known
            if entering:
                prompts[index] = Prompt(np.where(np.isin(labels, list(entering)), labels, 0).astype(np.uint8))
                known |= entering
        if not prompts:
            names = ", ".join(str(self.mask_paths[i]) for i in self.prompt_frames)
            raise ValueError(f"{self.name}: no object in {names}; the first mask must show what to follow")
        return prompts


class VideoSet(Sequence[VideoItem]):
    """The videos of a data set in its own order, by position or by name: `videos[0]`,
    `videos["blackswan"]`."""

    def __init__(self, items: Iterable[VideoItem]) -> None:
        self._items = {item.name: item for item in items}

    @property
    def names(self) -> list[str]:
        return list(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, key):
        if not isinstance(key, str):
            return list(self._items.values())[key]
        if key not in self._items:
            raise KeyError(f"no video {key!r} among {', '.join(self.names[:10])} ({len(self)} in all)")
        return self._items[key]


def read_mask(path: Path | str, *, binary: bool = False) -> UInt8[np.ndarray, "H W"]:
    """The object ids of a mask file: (H, W) uint8, 0 background, 1..254 objects, 255 void.

    - palette PNG (DAVIS, YouTube-VOS): the indices;
    - grey, 8 bit: the values, except that a mask of just 0 and 255 shows one object, id 1; 1 bit: 0 and 1;
    - grey, 16 bit: the values, at most 254;
    - RGB: converted if nothing is lost, that is, if every colour is in the DAVIS (PASCAL VOC) palette or the
      image is just black and white (id 1).

    `binary` makes everything but background and a palette's void into object 1 (the DAVIS-2016 protocol).
    Raises `FileNotFoundError`, `OSError` (damaged) or `ValueError` (not an id mask, more than 254 objects)."""
    path = Path(path)
    with open_image(path) as image:
        mode = image.mode
        values = np.asarray(image)
    if mode == "P":
        labels = values
    elif mode in ("RGB", "RGBA"):
        labels = _ids_of_colours(values, path)
    elif mode in ("1", "L") or mode.startswith("I"):
        labels = _ids_of_greys(values, path, binary)
    else:
        raise ValueError(f"{path} has mode {mode}; a mask is an 8-bit palette or grey PNG with one id per pixel")
    return ((labels > 0) & (labels < VOID)).astype(np.uint8) if binary else labels


def _ids_of_greys(values: Shaped[np.ndarray, "H W"], path: Path, binary: bool) -> UInt8[np.ndarray, "H W"]:
    # A white 255 is an object only where nothing else is, or where grey edges (a smoothed mask) do not matter.
    if values.dtype == bool or (values.dtype == np.uint8 and (binary or ((values == 0) | (values == 255)).all())):
        return (values > 0).astype(np.uint8)
    if values.dtype != np.uint8 and values.max(initial=0) > MAX_OBJECT_ID:
        raise ValueError(
            f"{path} holds ids up to {values.max()}; at most {MAX_OBJECT_ID} objects can be told apart "
            "(ids 1 to 254), so number the objects from 1 or split the video"
        )
    return values.astype(np.uint8)


def _ids_of_colours(rgb: UInt8[np.ndarray, "H W C"], path: Path) -> UInt8[np.ndarray, "H W"]:
    codes, inverse = np.unique(_colour_codes(rgb), return_inverse=True)
    if set(codes.tolist()) <= {0, WHITE}:
        ids = {0: 0, WHITE: 1}
    else:
        ids = {code: i for i, code in enumerate(_colour_codes(VOC).tolist())}
    if unknown := [code for code in codes.tolist() if code not in ids]:
        raise ValueError(
            f"{path} is an RGB image with {len(codes)} colours, #{unknown[0]:06x} among them, and not an id mask; save "
            "it as an 8-bit palette or grey PNG with one id per pixel (0 background, then 1, 2, ...)"
        )
    return np.array([ids[code] for code in codes.tolist()], np.uint8)[inverse].reshape(rgb.shape[:2])


def _colour_codes(rgb: UInt8[np.ndarray, "... C"]) -> Shaped[np.ndarray, "..."]:
    red, green, blue = (rgb[..., i].astype(np.int32) for i in range(3))
    return red << 16 | green << 8 | blue


def open_image(path: Path) -> Image.Image:
    """The decoded image of a file. Raises `FileNotFoundError`, or `OSError` if it is damaged or not an image."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        image = Image.open(path)
        image.load()
    # PIL raises SyntaxError on a broken PNG chunk and ValueError on absurd headers
    except (OSError, SyntaxError, ValueError) as error:
        raise OSError(f"{path} cannot be read as an image ({error}); it is damaged or not an image file") from None
    return image


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels of a frame, from its header alone. Raises like `open_image`."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5  # `read_image` turns these, which swaps the sides
            return (height, width) if turned else (width, height)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise OSError(f"{path} cannot be read as an image ({error}); it is damaged or not an image file") from None


def list_images(folder: Path, suffixes: Iterable[str] = frozenset(IMAGE_SUFFIXES)) -> list[Path]:
    """The image files of a folder in natural order (2 before 10); hidden files are left out."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; it should hold the images of one video")
    found = (p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith("."))
    return sorted(found, key=natural_key)


def read_video(name: str, frames: Path, masks: Path, *, binary: bool = False) -> VideoItem:
    """One video from a folder of frames and a folder of masks that have the same stems.

    Raises `FileNotFoundError` if a folder is missing or empty, `ValueError` if a mask has no frame."""
    frame_paths = list_images(frames)
    mask_list = list_images(masks, {".png"})
    if not frame_paths or not mask_list:
        raise FileNotFoundError(f"{masks if frame_paths else frames} holds no {'mask' if frame_paths else 'frame'}")
    position = {path.stem: i for i, path in enumerate(frame_paths)}
    if lost := [path for path in mask_list if path.stem not in position]:
        raise ValueError(f"{lost[0]} has no frame {lost[0].stem} in {frames} ({len(lost)} such masks)")
    mask_paths = {position[path.stem]: path for path in mask_list}
    return VideoItem(name, frame_paths, mask_paths, prompt_frames=(min(mask_paths),), binary=binary)
