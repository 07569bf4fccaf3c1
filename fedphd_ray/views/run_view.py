"""A run directory as it is at this moment, in whatever state: nothing in it is trusted, and nothing is written."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedphd_ray.diffusion.quality import QualityReport
from fedphd_ray.errors import UserError
from fedphd_ray.runtime.directory.identity import FILE as IDENTITY
from fedphd_ray.runtime.directory.identity import Identity
from fedphd_ray.runtime.directory.progress import RoundRecord
from fedphd_ray.runtime.directory.run_directory import Summary
from fedphd_ray.runtime.directory.status import Status
from fedphd_ray.system.files import read_book

Line = dict[str, Any]
STATES = ("running", "finished", "stopped", "died", "failed")
MOST_DEPTH = 5  # of folders below the one that is listed
_RECORD, _QUALITY = TypeAdapter(RoundRecord), TypeAdapter(QualityReport)


@dataclass(frozen=True)
class RunView:
    """One run.

    Attributes:
        directory: where.
        identity: whose it is.
        status: what its process says; None where nobody has said anything.
        rounds: whole lines of `metrics.jsonl`.
        qualities: whole lines of `quality.jsonl`.
        summary: final figures; None before the end.
    """

    directory: Path
    identity: Identity
    status: Status | None
    rounds: list[Line]
    qualities: list[Line]
    summary: Summary | None

    @classmethod
    def of(cls, directory: Path) -> "RunView":
        """As it is now.

        Raises:
            UserError: it is no run directory.
        """
        return cls(
            directory=directory,
            identity=Identity.read(directory),
            status=Status.read(directory),
            rounds=[line for line in whole_lines(directory / "metrics.jsonl") if record_of(line) is not None],
            qualities=[line for line in whole_lines(directory / "quality.jsonl") if quality_of(line) is not None],
            summary=Summary.read(directory),
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        """The resolved configuration."""
        return self.identity.settings

    @property
    def name(self) -> str:
        """Of the experiment."""
        return str(self.settings.get("name", "?"))

    @property
    def method(self) -> str:
        """Name of the strategy."""
        return str(_section(self.settings, "strategy").get("name", "?"))

    @property
    def num_rounds(self) -> int:
        """That it will have."""
        return int(_section(self.settings, "schedule").get("rounds", 0))

    @property
    def round(self) -> int:
        """The last one that is over."""
        return int(self.rounds[-1].get("round", 0)) if self.rounds else 0

    @property
    def state(self) -> str:
        """`running`, `finished`, `failed`, `stopped`, or `died`: its process has gone without a word."""
        if self.status is not None and self.status.state == "running":
            return "running" if self.status.alive else "died"
        if self.summary is not None and self.summary.rounds >= self.num_rounds:
            return "finished"
        return "stopped" if self.status is None or self.status.state == "finished" else self.status.state

    @property
    def fid(self) -> float | None:
        """The last that was measured."""
        measured = [line["fid"] for line in self.qualities if isinstance(line.get("fid"), int | float)]
        return float(measured[-1]) if measured else None

    @cached_property
    def bytes_by_hop(self) -> dict[str, int]:
        """Of all rounds that are over."""
        sums: dict[str, int] = {}
        for line in self.rounds:
            for hop, num in _section(line, "bytes_by_hop").items():
                sums[hop] = sums.get(hop, 0) + int(num)
        return sums

    @property
    def seconds(self) -> float:
        """Wall time of the rounds that are over."""
        return math.fsum(float(line.get("round_seconds") or 0.0) for line in self.rounds)


def runs_below(folder: Path) -> list[RunView]:
    """Every run in a folder and its folders, by path; what only looks like one is passed over.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(str(folder), expected="a folder with runs", found="a file" if folder.exists() else "no such folder")
    found = []
    for directory in sorted(_directories(folder, MOST_DEPTH)):
        try:
            found.append(RunView.of(directory))
        except UserError:
            continue
    return found


def _directories(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / IDENTITY).is_file():
        yield folder
    elif depth:
        try:
            inner = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink() and path.name[0] != "."]
        except OSError:
            return
        for path in inner:
            yield from _directories(path, depth - 1)


def whole_lines(path: Path) -> Iterator[Line]:
    """The objects of a JSON-lines file that may be written to at this moment: what is no whole line is left out.

    Raises:
        UserError: it cannot be read.
    """
    for line in read_book(path).split(b"\n")[:-1]:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict):
            yield entry


def record_of(line: Line) -> RoundRecord | None:
    """A line of `metrics.jsonl`; None where it is none."""
    try:
        return _RECORD.validate_python({"loss": math.nan} | {key: own for key, own in line.items() if own is not None})
    except ValidationError:
        return None


def quality_of(line: Line) -> QualityReport | None:
    """A line of `quality.jsonl`; None where it is none."""
    if not isinstance(line.get("round"), int):
        return None
    known = {key: own for key, own in line.items() if key != "round" and own is not None}
    if isinstance(metrics := known.get("metrics"), Mapping):
        known["metrics"] = {name: value for name, value in metrics.items() if value is not None}  # null: no number
    try:
        return _QUALITY.validate_python({"fid": math.nan, "kid": math.nan} | known)
    except ValidationError:
        return None


def _section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    own = tree.get(name)
    return own if isinstance(own, Mapping) else {}
