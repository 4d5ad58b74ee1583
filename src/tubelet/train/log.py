"""The log of a run: one JSON line per entry."""

import json
from pathlib import Path


class Log:
    """Appends entries to `folder/log.jsonl`; entries after `step` of an earlier try are dropped on resume."""

    def __init__(self, folder: Path, *, step: int = 0):
        self.path = folder / "log.jsonl"
        kept = [entry for entry in read_log(self.path) if entry["step"] <= step]
        part = self.path.with_name("log.jsonl.part")
        part.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
        part.replace(self.path)

    def write(self, **entry: float | int) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in entry.items()}) + "\n")


def read_log(path: Path) -> list[dict]:
    """The entries of a log; an empty list if there is none. A last line cut off by a kill is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
