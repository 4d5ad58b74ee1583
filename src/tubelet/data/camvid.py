"""CamVid with the 11 classes of SegNet, and every data set listed like it.

    ROOT/train.txt, val.txt         one frame per line: its picture and its class map, relative to ROOT
    ROOT/classes.json               {"classes": [...], "ignore_index": 11}; without it the 11 classes of CamVid

A line may name a picture alone; that frame has no labels. The sequence of a frame and its number there are its name
before and after the last "_" (0016E5_07959, 0006R0_f03570). CamVid labels one frame a second, of one sequence 15.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from tubelet.data.semantic import SemanticVideo, read_list
from tubelet.data.semantic_classes import CAMVID, CAMVID_VOID
from tubelet.types import VOID

NAME = re.compile(r"(?P<sequence>.+)_\D*(?P<number>\d+)")


def read_camvid(root: Path | str, split: str = "train") -> list[SemanticVideo]:
    """The sequences of a split in the order in which it comes to them, each with its listed frames in order of time.

    Frames that follow each other in a sequence may be far apart: `numbers` says how far. Raises `FileNotFoundError`
    naming what is missing, `ValueError` for a line or a name of another kind."""
    root = Path(root)
    classes, void = read_classes(root)
    rows = read_rows(root, split)
    if lost := [path for row in rows for path in row[2:] if path is not None and not path.is_file()]:
        raise FileNotFoundError(f"{lost[0]} does not exist, but {split}.txt lists it ({len(lost)} such files)")
    return list(sequences(rows, tuple(range(len(classes))), (void, VOID)))


def sequences(
    rows: Iterable[tuple[str, int, Path, Path | None]], ids: tuple[int, ...], void: tuple[int, ...]
) -> Iterable[SemanticVideo]:
    """The rows of `read_rows` as videos."""
    by_name: dict[str, list[tuple[int, Path, Path | None]]] = {}
    for name, number, picture, labels in rows:
        by_name.setdefault(name, []).append((number, picture, labels))
    for name, found in by_name.items():
        numbers, pictures, maps = zip(*sorted(found), strict=True)
        labels = {i: path for i, path in enumerate(maps) if path is not None}
        yield SemanticVideo(name, pictures, labels, ids, void, numbers=numbers)


def read_rows(root: Path, split: str) -> list[tuple[str, int, Path, Path | None]]:
    """Of each line its sequence, its frame number, and the files of picture and class map (None: none).

    Raises `FileNotFoundError` if there is no such list, `ValueError` for a line of another kind."""
    rows, seen = [], set()
    for line in read_list(root / f"{split}.txt"):
        words = line.split()
        found = NAME.fullmatch(Path(words[0]).stem)
        if len(words) > 2 or found is None:
            raise ValueError(
                f"{root / split}.txt has the line {line!r}; expected a picture named SEQUENCE_NUMBER and its class map"
            )
        key = found["sequence"], int(found["number"])
        if key in seen:
            raise ValueError(f"{root / split}.txt lists frame {key[1]} of {key[0]} twice")
        seen.add(key)
        rows.append((*key, root / words[0], root / words[1] if len(words) == 2 else None))
    return rows


def read_classes(root: Path) -> tuple[list[str], int]:
    """The names of the classes and the id that is void. Raises `ValueError` for a classes.json of another kind."""
    path = root / "classes.json"
    if not path.is_file():
        return list(CAMVID), CAMVID_VOID
    try:
        content = json.loads(path.read_text())
        classes, void = list(content["classes"]), int(content["ignore_index"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is of another kind ({type(error).__name__}: {error}); expected "
            '{"classes": [names], "ignore_index": id}'
        ) from None
    if not len(classes) <= void <= VOID:
        raise ValueError(f"{path} has {len(classes)} classes and ignore_index {void}, which must be one of the others")
    return classes, void
