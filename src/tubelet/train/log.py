"""The log of a run: one JSON line per entry, and the same for TensorBoard if it is installed."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Log:
    """Appends entries to `folder/log.jsonl` and `folder/tensorboard`; entries after `step` of an earlier try are
    dropped on resume.

    Entries with a learning rate are about training, others about validation; numbers keep six digits."""

    def __init__(self, folder: Path, *, step: int = 0):
        self.path = folder / "log.jsonl"
        kept = [entry for entry in read_log(self.path) if entry["step"] <= step]
        part = self.path.with_name("log.jsonl.part")
        part.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
        part.replace(self.path)
        self.board = open_board(folder / "tensorboard", step)

    def write(self, **entry: float | int) -> None:
        entry = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in entry.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        if self.board is not None:
            part = "training" if "lr" in entry else "validation"
            for name in entry.keys() - {"step"}:
                self.board.add_scalar(f"{part}/{name}", entry[name], entry["step"])
            self.board.flush()  # a run that is killed has shown all it did

    def close(self) -> None:
        """Nothing can be written any more."""
        if self.board is not None:
            self.board.close()


def open_board(folder: Path, step: int) -> "SummaryWriter | None":
    """A writer for TensorBoard that hides what an earlier try wrote after `step`; None if it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def read_log(path: Path) -> list[dict]:
    """The entries of a log; an empty list if there is none. A last line cut off by a kill is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
