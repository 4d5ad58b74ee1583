"""What all recipes have in common: where a run lives, and the run itself."""

import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Run:
    """Where a run lives and how it is cut into sessions."""

    out: Path = Path("runs")
    """Folder of runs; the run itself is OUT/RECIPE-NAME. Running the same command again goes on from there."""
    workers: int = 1
    """Processes that prepare clips; 0 prepares them between the steps."""
    minutes: float | None = None
    """Stop (and save) after so many minutes; the schedule stays that of the whole run."""
    until: int | None = None
    """Stop (and save) after this step; the schedule stays that of the whole run."""
    log_every: int = 20
    save_every: int = 200

    def folder(self, name: str) -> Path:
        """Of the run of the recipe `name`."""
        return self.out / name


@runtime_checkable
class Recipe(Protocol):
    """What `fit` needs of a recipe; the rest is the business of its own file."""

    @property
    def model(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def precision(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def run(self) -> Run: ...


@dataclass(frozen=True)
class Views:
    """Batches of pairs of frames with flow, `count` of them after each batch of clips."""

    sources: Sequence[tuple[Callable, float]]
    batch: int
    count: int


def fit(
    name: str,
    recipe: Recipe,
    model: "nn.Module",
    groups: list[dict],
    sources: Sequence[tuple[Callable, float]],
    *,
    collate: Callable,
    views: Views | None = None,
    metadata: dict[str, str] | None = None,
    **options: Any,
) -> Path:
    """Trains, or goes on; returns the folder of the run, with the averaged weights in `weights.safetensors`, the recipe
    in `config.json` and what `train.loop.train` writes. A run that goes on with another recipe says so in a warning.

    `sources` and `collate` are those of a `ClipStream`, `options` those of `train.loop.train`. `views` come between the
    batches of clips. `metadata` goes into the weights, beside the names of the model and of the recipe. The batch is
    that of a process: with n processes a step sees n times as many clips."""
    import torch
    from accelerate import PartialState

    from tubelet.data.loader import ClipStream, Interleaved, collate_flow, load
    from tubelet.train.loop import train
    from tubelet.weights import save

    state, run = PartialState(cpu=not torch.cuda.is_available()), recipe.run
    part = (state.process_index, state.num_processes)
    stream = ClipStream(sources, batch=recipe.batch, seed=recipe.seed, part=part, collate=collate)
    if views is not None:
        pairs = ClipStream(views.sources, batch=views.batch, seed=recipe.seed + 1, part=part, collate=collate_flow)
        stream = Interleaved(stream, pairs, count=views.count)
    folder, began = run.folder(name), time.monotonic()
    config = config_of(name, recipe, processes=state.num_processes)
    if state.is_main_process:
        warn_of_changes(folder, config)

    def past(minutes: float | None) -> bool:
        return minutes is not None and time.monotonic() - began > 60 * minutes

    def batches(start: int, stop: int):
        if state.is_main_process:  # not before: a checkpoint that does not fit the recipe keeps its own config
            write_config(folder, config)
        return load(stream, start=start, stop=stop, workers=run.workers)

    trained = train(
        model,
        groups,
        batches,
        steps=recipe.steps,
        folder=folder,
        precision=recipe.precision,
        log_every=run.log_every,
        save_every=run.save_every,
        stop=lambda step: step == run.until or past(run.minutes),
        seed=recipe.seed,
        **options,
    )
    if state.is_main_process:
        about = {"model": recipe.model, "recipe": name, **(metadata or {})}
        save(trained, folder / "weights.safetensors", metadata=about)
    return folder


def config_of(name: str, recipe: Recipe, *, processes: int) -> dict[str, Any]:
    """All that a run is made of, as JSON has it: paths are strings, tuples lists."""
    import torch

    import tubelet

    fields = json.loads(json.dumps(asdict(recipe), default=str))  # pyright: ignore[reportArgumentType]
    versions = {"tubelet": tubelet.__version__, "torch": torch.__version__}
    return {"name": name, **versions, "processes": processes, "recipe": fields}


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """`folder/config.json`, whole or not at all."""
    part = folder / "config.json.part"
    part.write_text(json.dumps(config, indent=2) + "\n")
    part.replace(folder / "config.json")


def warn_of_changes(folder: Path, config: dict[str, Any]) -> None:
    """Says which fields are other than when the run of the folder was last worked on, if there is one.

    The fields of `run` do not count: they do not change what is learned."""
    from tubelet.train.checkpoint import NAME

    path = folder / "config.json"
    if not path.is_file() or not (folder / NAME).is_file():
        return
    was, now = (flat({"processes": c["processes"], **c["recipe"]}) for c in (json.loads(path.read_text()), config))
    changed = [
        f"{key} was {was.get(key)!r}, now {now.get(key)!r}"
        for key in {**was, **now}
        if was.get(key) != now.get(key) and not key.startswith("run.") and key != "about"
    ]
    if changed:
        warnings.warn(
            f"the run in {folder} goes on with another recipe: {'; '.join(changed)}; to begin anew, give another "
            "--run.out",
            stacklevel=3,
        )


def flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields under their names on the command line: `data.davis_gap`."""
    out = {}
    for key, value in fields.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out
