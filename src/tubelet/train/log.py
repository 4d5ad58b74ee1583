"""The log of a run: one JSON line per entry, and a picture of its curves."""

import json
from pathlib import Path


class Log:
    """Appends entries to `folder/log.jsonl`; entries after `step` of an earlier try are dropped on resume."""

    def __init__(self, folder: Path, *, step: int = 0):
        self.path = folder / "log.jsonl"
        kept = [entry for entry in read_log(self.path) if entry["step"] <= step]
        self.path.write_text("".join(json.dumps(entry) + "\n" for entry in kept))

    def write(self, **entry: float) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in entry.items()}) + "\n")


def read_log(path: Path) -> list[dict]:
    """The entries of a log; an empty list if there is none."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
