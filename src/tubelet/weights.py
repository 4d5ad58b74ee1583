"""Weights by name or by file: ours (safetensors), or an official checkpoint, converted strictly on the fly.

Nothing is loaded by halves: every key of a file is used and every parameter is filled, or it raises.
"""

import difflib
import functools
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tubelet.models import mask2former, mask2former_official, mpvss, mpvss_official, syncvis
from tubelet.models.aot import model as aot
from tubelet.models.aot import official as aot_official
from tubelet.pickles import read_pickle

SHIPPED = Path(__file__).parent / "pretrained"
CLASS_HEAD = "decoder.heads.class_embed."  # of a SyncVIS, below `host.`
QUERIES = ("decoder.query_content", "decoder.query_position")


def names() -> list[str]:
    """Every model name that `load` takes, the training-free one first."""
    return ["dis-flow", *aot.VARIANTS, *mask2former.VARIANTS, *syncvis.names(), *mpvss.VARIANTS]


def finds_objects(name: str) -> bool:
    """Whether the model finds and classifies objects by itself."""
    return name in mask2former.VARIANTS or name in syncvis.names()


def labels_pixels(name: str) -> bool:
    """Whether the model gives every pixel a class. Those that do neither follow given objects."""
    return name in mpvss.VARIANTS


def knows_classes(name: str) -> bool:
    """Whether the model was trained for classes."""
    return finds_objects(name) or labels_pixels(name)


def check_name(name: str) -> str:
    """`name`, or `ValueError` with the nearest right one."""
    if name in names():
        return name
    near = difflib.get_close_matches(name.lower(), names(), 1, 0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"there is no model {name!r}; {hint}`tubelet list` shows all of them")


def shipped(name: str) -> Path | None:
    """The weights file that comes with the package for this model, if there is one."""
    path = SHIPPED / f"{name}.safetensors"
    return path if path.is_file() else None


def build(name: str, classes: int | None = None, **options) -> Any:
    """A trainable model by name with random weights. `classes` (None: the variant's own) only where there are any;
    `options`: those of the family's own `build`."""
    if knows_classes(name):
        family = next((x for x in (mask2former, mpvss) if name in x.VARIANTS), syncvis)
        return family.build(name, **options) if classes is None else family.build(name, classes, **options)
    if classes is not None:
        raise ValueError(f"{name} knows no classes; leave out classes={classes}")
    return aot.build(name)


def load(
    name: str,
    weights: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    classes: int | None = None,
) -> Any:
    """A model ready for use.

    `weights`: a safetensors file of ours or an official checkpoint (.pth, .pkl); None for the weights that come with
    the package; "random" for none at all (to measure speed). `classes`: of a model that has classes; None for as many
    as the file has. Raises `ValueError` for an unknown name, for a model without shipped weights when none are given,
    and for a file that does not fit."""
    check_name(name)
    if name == "dis-flow":
        from tubelet.models.flow import DisFlow

        if weights is not None:
            raise ValueError("dis-flow is training-free and takes no weights")
        return DisFlow()
    chosen = check_device(device)
    path = shipped(name) if weights is None else weights
    if path is None:
        raise ValueError(
            f"no trained weights come with {name!r}; give a file (an official checkpoint or one trained with "
            f'`tubelet train`) as weights=FILE, or weights="random" to measure its speed'
        )
    if path == "random":
        warnings.warn(f"{name} has random weights: its masks mean nothing", stacklevel=2)
        model = build(name, classes)
    else:
        state = read_state(path)
        model = build_for(name, state, classes)
        fill(model, state, name=name, source=str(path))
        if Path(path).suffix == ".safetensors":
            restore(model, read_metadata(path))
    # channels last: the decoder is a fifth faster on a CPU, and tensor cores want it
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return model.eval().to(chosen)


def build_for(name: str, state: dict[str, Tensor], classes: int | None = None) -> Any:
    """The model, with random weights, that a state dict, ours or official, is for: as many classes (unless `classes`
    says otherwise), and what MPVSS estimates flow with."""
    classes = classes_of(state) if classes is None and knows_classes(name) else classes
    if not labels_pixels(name):
        return build(name, classes)
    # the authors' weights were trained with the authors' warp
    grid = "authors" if mpvss_official.looks_official(set(state)) else "exact"
    return build(name, classes, motion=mpvss.motion_of(our_state(state)), grid=grid)


def restore(model: nn.Module, metadata: dict[str, str]) -> None:
    """What a trained model must know and its tensors do not tell: the size of its frames, the way of its exchange."""
    if isinstance(model, aot.AOT):
        model.long_edge = int(metadata.get("long_edge", model.long_edge))
    if isinstance(model, syncvis.SyncVIS):
        exchange = model.exchange
        exchange.direction = metadata.get("direction", exchange.direction)  # pyright: ignore[reportAttributeAccessIssue]
        exchange.keep = int(metadata.get("keep", exchange.keep))
        exchange.momentum = float(metadata.get("momentum", exchange.momentum))
    if isinstance(model, mpvss.MPVSS):
        model.grid = metadata.get("grid", model.grid)  # pyright: ignore[reportAttributeAccessIssue]


def check_device(device: str | torch.device) -> torch.device:
    """The device, or `ValueError` if this machine or this torch does not have it."""
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"{device!r} is not a device; use cpu, cuda, cuda:1 or mps") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("CUDA was asked for, but torch sees no CUDA device here; use --device cpu")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"{device} was asked for, but there are only {torch.cuda.device_count()} CUDA devices")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("mps was asked for, but torch sees no Apple GPU here; use --device cpu")
    return chosen


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file: safetensors, or a torch file or a pickle, in `state_dict`, in `model` or bare.

    A `module.` prefix is taken off. Only tensors and arrays are read, no code is run."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no weights file {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = read_pickle(path) if _is_pickle(path) else _read_torch(path)
    for container in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(container), dict):
            content = content[container]
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds no state dict")
    tensors = {
        str(key).removeprefix("module."): _tensor(value) if isinstance(value, np.ndarray) else value
        for key, value in content.items()
    }
    if not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(f"{path} holds no state dict: some of its entries are not tensors")
    return tensors


def _is_pickle(path: Path) -> bool:
    """Whether it is a file of detectron2's model zoo; torch's own are zip files."""
    return path.suffix == ".pkl" and not zipfile.is_zipfile(path)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything from EOFError to UnpicklingError for a file it cannot read
        raise ValueError(f"{path} is not a checkpoint that can be read safely ({type(error).__name__})") from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from None


def read_metadata(path: str | Path) -> dict[str, str]:
    """What a safetensors file of ours says about itself (model, training, scores)."""
    with safe_open(Path(path), framework="pt") as file:
        return file.metadata() or {}


def fill(model: nn.Module, state: dict[str, Tensor], *, name: str, source: str) -> list[str]:
    """Loads a state dict, ours or official, into the model; every key must be used and none be missing.

    One exception is made, and a warning says so: a class head for another number of classes stays as the model has it.
    Returns the names of the parameters that were left so, usually none.

    Raises `ValueError` with a sentence that says what the file looks like, if it does not fit."""
    state = our_state(state)
    if isinstance(model, mpvss.MPVSS) and not any(key.startswith("segmentor.") for key in state):
        state = {f"segmentor.{key}": value for key, value in state.items()}  # Mask2Former for images, by itself
    own, given = _shapes(model.state_dict()), _shapes(state)
    kept = [key for key in own if CLASS_HEAD in key and own[key] != given.get(key, own[key])]
    kept = [key for key in kept if own[key][1:] == given[key][1:]]
    if {**own, **{key: given[key] for key in kept}} != given:
        raise ValueError(f"{source} does not fit {name}: {_difference(own, given)}; {looks_like(given)}")
    if kept:
        theirs, ours = given[kept[0]][0] - 1, own[kept[0]][0] - 1
        warnings.warn(
            f"{source} is for {theirs} classes and {name} was asked for {ours}: the class head was not loaded and has "
            f"to be trained",
            stacklevel=2,
        )
    model.load_state_dict({key: state[key].float() for key in own if key not in kept}, strict=False)
    return kept


def fill_encoder(encoder: nn.Module, state: dict[str, Tensor], *, source: str) -> None:
    """Loads ImageNet weights (torchvision's MobileNetV2 or ResNet, the authors' Swin) into the encoder of an AOT model.

    Every key must be used and none be missing, but for what classifiers lack or have beyond it: the norms of a Swin's
    maps keep their start, the head is left out. Raises `ValueError` if the file does not fit."""
    state = aot_official.encoder_state(state)
    own, given = _shapes(encoder.state_dict()), _shapes(state)
    if {key: shape for key, shape in own.items() if key in given or not key.startswith("norms.")} != given:
        raise ValueError(f"{source} does not fit the encoder: {_difference(own, given)}; {looks_like(given)}")
    encoder.load_state_dict({key: value.float() for key, value in state.items()}, strict=False)


def our_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under our names, whoever's it is."""
    if mpvss_official.looks_official(set(state)):
        return mpvss_official.our_state(state)
    if mask2former_official.looks_official(set(state)):
        return mask2former_official.our_state(state)
    if aot_official.looks_official(set(state)):
        return {ours: value for key, value in state.items() if (ours := aot_official.our_name(key)) is not None}
    return state


def classes_of(state: dict[str, Tensor]) -> int | None:
    """How many classes a state dict, ours or official, knows besides "no object"; None if there is no class head."""
    heads = (CLASS_HEAD + "bias", "sem_seg_head.predictor.class_embed.bias")
    return next((len(value) - 1 for key, value in state.items() if key.endswith(heads)), None)


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Without the counters of batch norms, which some files lack."""
    return {key: tuple(value.shape) for key, value in state.items() if not key.endswith("tracked")}


def _difference(own: dict[str, tuple], given: dict[str, tuple]) -> str:
    missing, extra = sorted(set(own) - set(given)), sorted(set(given) - set(own))
    shaped = sorted(key for key in set(own) & set(given) if own[key] != given[key])
    queries = [key for key in shaped if key.endswith(QUERIES)]
    parts = []
    if queries:
        parts.append(f"it has {given[queries[0]][0]} queries where the model has {own[queries[0]][0]}")
        shaped = [key for key in shaped if key not in queries]
    if missing:
        parts.append(f"{len(missing)} of {len(own)} parameters are missing (first {missing[0]})")
    if extra:
        parts.append(f"{len(extra)} keys are unknown (first {extra[0]})")
    if shaped:
        key = shaped[0]
        parts.append(f"{len(shaped)} have another shape (first {key}: {given[key]}, expected {own[key]})")
    return ", ".join(parts)


OTHERS = {  # a key (under our names) that gives another architecture away
    "lstt.blocks.0.linear_U": "a DeAOT checkpoint, which this library does not have",
    "vita_module.": "a VITA or GenVIS checkpoint",
    "syncvis_module.": "a checkpoint of the released SyncVIS code",
    "decoder.reid_embed.": "a CTVIS checkpoint",
    "image_encoder.trunk": "a SAM 2 checkpoint",
    "image_encoder.blocks": "a Segment Anything checkpoint",
    "pixel_encoder.": "a Cutie checkpoint",
    "key_encoder.": "an XMem or STCN checkpoint",
    "layers.0.blocks.0.attn": "a bare Swin Transformer",
    "features.0.0.": "a bare MobileNetV2 (torchvision)",
    "conv_stem.": "a bare MobileNetV2 (timm)",
    "layer1.0.conv1": "a bare ResNet",
}


def looks_like(shapes: dict[str, tuple]) -> str:
    """A sentence part that names what a state dict (ours or official names, with shapes) looks like."""
    for key, what in OTHERS.items():
        if any(given.startswith(key) for given in shapes):
            return f"it looks like {what}"
    head = next((shape for key, shape in shapes.items() if key.endswith(CLASS_HEAD + "bias")), None)
    candidates = [name for name in names() if name != "dis-flow" and knows_classes(name) == (head is not None)]
    for name in candidates:
        if shapes_of(name, head and head[0] - 1) == shapes:
            return f"it looks like {name}"
    if any(given.endswith(QUERIES) for given in shapes):
        return "it looks like a Mask2Former-style checkpoint (Mask2Former, MinVIS, VITA, SyncVIS, MPVSS)"
    return "it looks like none of the models of this library"


@functools.cache
def shapes_of(name: str, classes: int | None = None) -> dict[str, tuple]:
    """The shapes of a variant's state dict."""
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in build(name, classes).state_dict().items()}


def save(model: nn.Module, path: str | Path, *, half: bool = False, metadata: dict[str, str] | None = None) -> None:
    """Writes safetensors (in fp16 with `half`), whole or not at all."""
    path = Path(path)
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("tracked")}
    if half:
        state = {key: value.half() for key, value in state.items()}
    part = path.with_name(path.name + ".part")
    save_file({key: value.contiguous().cpu() for key, value in state.items()}, part, metadata=metadata)
    part.replace(path)


def convert(source: str | Path, name: str, target: str | Path, *, half: bool = False) -> int:
    """An official checkpoint -> our safetensors at `target`, with as many classes as it has, if it has any.

    Returns the number of parameters."""
    if check_name(name) == "dis-flow":
        raise ValueError("dis-flow has no weights to convert")
    state = read_state(source)
    model = build_for(name, state)
    fill(model, state, name=name, source=str(source))
    said = {"model": name, "converted_from": json.dumps(Path(source).name)}
    if labels_pixels(name):
        said["grid"] = model.grid
    save(model, target, half=half, metadata=said)
    return sum(p.numel() for p in model.parameters())
