"""What all recipes have in common: where a run lives, and the run itself."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    log_every: int = 20
    save_every: int = 200


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


def fit(
    name: str,
    recipe: Recipe,
    model: "nn.Module",
    groups: list[dict],
    sources: Sequence[tuple[Callable, float]],
    *,
    collate: Callable,
    metadata: dict[str, str] | None = None,
    **options: Any,
) -> Path:
    """Trains, or goes on; returns the folder of the run, with the averaged weights in `weights.safetensors`.

    `sources` and `collate` are those of a `ClipStream`, `options` those of `train.loop.train`. `metadata` goes into the
    weights, beside the names of the model and of the recipe. The batch is that of a process: with n processes a step
    sees n times as many clips."""
    import torch
    from accelerate import PartialState

    from tubelet.data.loader import ClipStream, load
    from tubelet.train.curves import draw_curves
    from tubelet.train.loop import train
    from tubelet.weights import save

    state, run = PartialState(cpu=not torch.cuda.is_available()), recipe.run
    part = (state.process_index, state.num_processes)
    stream = ClipStream(sources, batch=recipe.batch, seed=recipe.seed, part=part, collate=collate)
    folder, began = run.out / name, time.monotonic()
    trained = train(
        model,
        groups,
        lambda start, stop: load(stream, start=start, stop=stop, workers=run.workers),
        steps=recipe.steps,
        folder=folder,
        precision=recipe.precision,
        log_every=run.log_every,
        save_every=run.save_every,
        stop=lambda step: run.minutes is not None and time.monotonic() - began > 60 * run.minutes,
        seed=recipe.seed,
        **options,
    )
    if state.is_main_process:
        about = {"model": recipe.model, "recipe": name, **(metadata or {})}
        save(trained, folder / "weights.safetensors", metadata=about)
        draw_curves(folder)
    return folder
