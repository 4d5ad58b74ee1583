"""Weights by name or by file: ours (safetensors), or an official checkpoint, converted strictly on the fly.

Nothing is loaded by halves: every key of a file is used and every parameter is filled, or it raises.
"""

import difflib
import functools
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tubelet.models.aot import model as aot
from tubelet.models.aot.official import looks_official, our_name

SHIPPED = Path(__file__).parent / "pretrained"


def names() -> list[str]:
    """Every model name that `load` takes, the training-free one first."""
    return ["dis-flow", *aot.VARIANTS]


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


def load(name: str, weights: str | Path | None = None, *, device: str | torch.device = "cpu") -> Any:
    """A model ready for `model.session()`.

    `weights`: a safetensors file of ours or an official checkpoint (.pth); None for the weights that come with the
    package; "random" for none at all (to measure speed). Raises `ValueError` for an unknown name, for a model without
    shipped weights when none are given, and for a file that does not fit."""
    check_name(name)
    if name == "dis-flow":
        from tubelet.models.flow import DisFlow

        if weights is not None:
            raise ValueError("dis-flow is training-free and takes no weights")
        return DisFlow()
    chosen = check_device(device)
    model = aot.build(name)
    path = shipped(name) if weights is None else weights
    if path is None:
        raise ValueError(
            f"no trained weights come with {name!r}; give a file (an official checkpoint or one trained with "
            f'`tubelet train`) as weights=FILE, or weights="random" to measure its speed'
        )
    if path == "random":
        warnings.warn(f"{name} has random weights: its masks mean nothing", stacklevel=2)
    else:
        fill(model, read_state(path), name=name, source=str(path))
        if Path(path).suffix == ".safetensors":
            model.long_edge = int(read_metadata(path).get("long_edge", model.long_edge))
    # channels last: the decoder is a fifth faster on a CPU, and tensor cores want it
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return model.eval().to(chosen)


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
    """The state dict in a file: safetensors, or a torch file whose container is `state_dict`, `model` or bare.

    A `module.` prefix is taken off. Only tensors are read (`weights_only`), no code is run."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no weights file {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything from EOFError to UnpicklingError for a file it cannot read
        raise ValueError(f"{path} is not a checkpoint that can be read safely ({type(error).__name__})") from None
    for container in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(container), dict):
            content = content[container]
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds no state dict")
    if not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} holds no state dict: some of its entries are not tensors")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


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


def fill(model: nn.Module, state: dict[str, Tensor], *, name: str, source: str) -> None:
    """Loads a state dict, ours or official, into the model; every key must be used and none be missing.

    Raises `ValueError` with a sentence that says what the file looks like, if it does not fit."""
    if looks_official(set(state)):
        state = {ours: value for key, value in state.items() if (ours := our_name(key)) is not None}
    own = {key: tuple(value.shape) for key, value in model.state_dict().items() if not key.endswith("tracked")}
    given = {key: tuple(value.shape) for key, value in state.items() if not key.endswith("tracked")}
    if own != given:
        raise ValueError(f"{source} does not fit {name}: {_difference(own, given)}; {looks_like(given)}")
    model.load_state_dict({key: state[key].float() for key in own}, strict=False)


def _difference(own: dict[str, tuple], given: dict[str, tuple]) -> str:
    missing, extra = sorted(set(own) - set(given)), sorted(set(given) - set(own))
    shaped = sorted(key for key in set(own) & set(given) if own[key] != given[key])
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {len(own)} parameters are missing (first {missing[0]})")
    if extra:
        parts.append(f"{len(extra)} keys are unknown (first {extra[0]})")
    if shaped:
        key = shaped[0]
        parts.append(f"{len(shaped)} have another shape (first {key}: {given[key]}, expected {own[key]})")
    return ", ".join(parts)


OTHERS = {  # a key (after `our_name`) that gives another architecture away
    "lstt.blocks.0.linear_U": "a DeAOT checkpoint, which this library does not have",
    "sem_seg_head.": "a Mask2Former-style checkpoint (Mask2Former, MinVIS, VITA, SyncVIS, MPVSS)",
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
    for name in aot.VARIANTS:
        if shapes_of(name) == shapes:
            return f"it looks like {name}"
    return "it looks like none of the models of this library"


@functools.cache
def shapes_of(name: str) -> dict[str, tuple]:
    """The shapes of a variant's state dict."""
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in aot.build(name).state_dict().items()}


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
    """An official checkpoint -> our safetensors at `target`. Returns the number of parameters."""
    if check_name(name) == "dis-flow":
        raise ValueError("dis-flow has no weights to convert")
    model = aot.build(name)
    fill(model, read_state(source), name=name, source=str(source))
    save(model, target, half=half, metadata={"model": name, "converted_from": json.dumps(Path(source).name)})
    return sum(p.numel() for p in model.parameters())
