"""The class names of the semantic data sets, their colours, and the ids that their files hold.

A class is an index from 0 (the train id), the position in its list; 255 is void. Files often hold other ids, and
`to_train_ids` turns those into classes. VIPSeg has the classes of VSPW in the same order, so `VSPW` stands for both.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, UInt8

from tubelet.types import VOID
from tubelet.viz.palette import BRIGHT

_VSPW = (  # spelt as the data set's own file of names has them, capitals included
    "wall ceiling door stair ladder escalator Playground_slide handrail_or_fence window rail goal pillar pole floor "
    "ground grass sand athletic_field road path crosswalk building house bridge tower windmill well_or_well_lid "
    "other_construction sky mountain stone wood ice snowfield grandstand sea river lake waterfall water "
    "billboard_or_Bulletin_Board sculpture pipeline flag parasol_or_umbrella cushion_or_carpet tent roadblock car bus "
    "truck bicycle motorcycle wheeled_machine ship_or_boat raft airplane tyre traffic_light lamp person cat dog horse "
    "cattle other_animal tree flower other_plant toy ball_net backboard skateboard bat ball "
    "cupboard_or_showcase_or_storage_rack box traveling_case_or_trolley_case basket bag_or_package trash_can cage "
    "plate tub_or_bowl_or_pot bottle_or_cup barrel fishbowl bed pillow table_or_desk chair_or_seat bench sofa shelf "
    "bathtub gun commode roaster other_machine refrigerator washing_machine Microwave_oven fan curtain textiles "
    "clothes painting_or_poster mirror flower_pot_or_vase clock book tool blackboard tissue screen_or_television "
    "computer printer Mobile_phone keyboard other_electronic_product fruit food instrument train"
)
VSPW = _VSPW.split()

# name: colour, in the order of the train ids, both as the data set defines them
_CITYSCAPES = {
    "road": (128, 64, 128), "sidewalk": (244, 35, 232), "building": (70, 70, 70), "wall": (102, 102, 156),
    "fence": (190, 153, 153), "pole": (153, 153, 153), "traffic light": (250, 170, 30), "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35), "terrain": (152, 251, 152), "sky": (70, 130, 180), "person": (220, 20, 60),
    "rider": (255, 0, 0), "car": (0, 0, 142), "truck": (0, 0, 70), "bus": (0, 60, 100), "train": (0, 80, 100),
    "motorcycle": (0, 0, 230), "bicycle": (119, 11, 32),
}  # fmt: skip
CITYSCAPES = list(_CITYSCAPES)

# the 11 groups into which SegNet put the 32 classes of CamVid, and its colours for them
_CAMVID = {
    "Sky": (128, 128, 128), "Building": (128, 0, 0), "Pole": (192, 192, 128), "Road": (128, 64, 128),
    "Pavement": (60, 40, 222), "Tree": (128, 128, 0), "SignSymbol": (192, 128, 128), "Fence": (64, 64, 128),
    "Car": (64, 0, 128), "Pedestrian": (64, 64, 0), "Bicyclist": (0, 128, 192),
}  # fmt: skip
CAMVID = list(_CAMVID)

NAMES: dict[str, Sequence[str]] = {"vspw": VSPW, "vipseg": VSPW, "cityscapes": CITYSCAPES, "camvid": CAMVID}
_COLOURS: dict[str, Mapping[str, tuple[int, int, int]]] = {"cityscapes": _CITYSCAPES, "camvid": _CAMVID}

# the id in the files of each class
VSPW_TRAIN_IDS: tuple[int, ...] = tuple(range(1, 125))
CITYSCAPES_TRAIN_IDS: tuple[int, ...] = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CAMVID_VOID = 11


def palette(dataset: str) -> UInt8[np.ndarray, "256 3"]:
    """The colour of each class of a data set of `NAMES`, as RGB; all that is no class, void included, is black.

    Cityscapes and CamVid have the colours they are known by, the others those of `BRIGHT`. Raises `ValueError` for
    another data set."""
    if dataset not in NAMES:
        raise ValueError(f"there are no classes of {dataset!r}; known are {', '.join(NAMES)}")
    colours, count = np.zeros((256, 3), np.uint8), len(NAMES[dataset])
    known = _COLOURS.get(dataset)
    colours[:count] = BRIGHT[1 : count + 1] if known is None else list(known.values())
    return colours


def colours_of(names: Sequence[str]) -> UInt8[np.ndarray, "256 3"]:
    """The colour of each class of a list of names (an underscore may stand for a space): that of the data set whose
    they are, else those of `BRIGHT`."""
    for dataset, listed in NAMES.items():
        if [name.replace(" ", "_") for name in names] == [name.replace(" ", "_") for name in listed]:
            return palette(dataset)
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(names)] = BRIGHT[1 : len(names) + 1]
    return colours


def to_train_ids(
    labels: UInt8[np.ndarray, "H W"],
    ids: Sequence[int],
    *,
    void: Collection[int] | None = None,
    where: str = "the class map",
) -> UInt8[np.ndarray, "H W"]:
    """The classes of a map of file ids: `ids[k]` becomes k, void ids become 255.

    `void` are the ids without a class; None means 255 and every id below the largest of `ids` that is not among them,
    which is right for Cityscapes (0..33) and VSPW (0..124). Raises `ValueError` for any other id, calling the map
    `where`."""
    table, known = _table(tuple(ids), None if void is None else frozenset(void))
    if not known[labels].all():
        there = np.unique(labels)
        strange = there[~known[there]].tolist()
        raise ValueError(
            f"{where} holds {_some(strange)}, which {'is no class' if len(strange) == 1 else 'are no classes'} and "
            f"not void; expected {_some(list(ids))}, or {_some(np.flatnonzero(known & (table == VOID)).tolist())} for "
            "void. Is it of another data set, or does it hold train ids already?"
        )
    return table[labels]


@lru_cache
def _table(
    ids: tuple[int, ...], void: frozenset[int] | None
) -> tuple[UInt8[np.ndarray, " 256"], Bool[np.ndarray, " 256"]]:
    """id -> class, and which ids are known."""
    if len(set(ids)) < len(ids) or len(ids) > VOID or not set(ids) <= set(range(256)):
        raise ValueError(f"the ids of classes differ and are 0..255, 255 of them at most; got {_some(list(ids))}")
    void = frozenset([*range(max(ids, default=0)), VOID]) - frozenset(ids) if void is None else void
    if void & frozenset(ids):
        raise ValueError(f"an id is either a class or void, but {_some(sorted(void & frozenset(ids)))} would be both")
    table, known = np.full(256, VOID, np.uint8), np.zeros(256, bool)
    table[list(ids)] = range(len(ids))
    known[[*ids, *void]] = True
    table.flags.writeable = known.flags.writeable = False
    return table, known


def _some(ids: list[int]) -> str:
    """The ids as text, long lists shortened."""
    named = ", ".join(map(str, ids if len(ids) < 8 else [*ids[:3], "..."]))
    return f"{'id' if len(ids) == 1 else 'ids'} {named}{f' {ids[-1]}' if len(ids) >= 8 else ''}"
