"""What every recipe says, and how one is found."""

from dataclasses import dataclass
from pathlib import Path


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
