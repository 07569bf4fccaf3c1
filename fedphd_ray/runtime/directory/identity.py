"""Whose a run directory and its checkpoints are, and what may change when a run goes on."""

import hashlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from fedphd_ray.errors import UserError
from fedphd_ray.federation.local_config import Precision
from fedphd_ray.runtime.directory.status import utc_now
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.settings.overrides import leaves
from fedphd_ray.settings.validation import in_short, shown
from fedphd_ray.system.files import MIB, read_text, write_whole

FILE = "run.json"
UNDECIDED = ("name", "runtime", "checkpoint", "reporting")
"""Sections that decide no result (but for `runtime.threads_per_host`, of which the user is told)."""


class Identity(BaseModel):
    """`run.json`: made when a run begins.

    Attributes:
        run: a random name, in every checkpoint of the run.
        data_sha256: of images and labels.
        settings: the resolved configuration.
        pretrained_sha256: of the parameters that `model.pretrained` named; None without, and in runs from before that was written
            down.
        began: when, in UTC; empty in runs from before that was written down.
        precision: of local training, as it was decided when the run began; None in runs from before there was a choice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    data_sha256: str
    settings: dict[str, Any]
    precision: Precision | None = None
    pretrained_sha256: str | None = None
    began: str = ""

    @classmethod
    def new(cls, experiment: Experiment, precision: Precision) -> Self:
        """That of a run which begins now."""
        return cls(
            run=secrets.token_hex(16),
            data_sha256=experiment.dataset.content_hash,
            settings=dict(experiment.settings),
            precision=precision,
            pretrained_sha256=_pretrained(experiment),
            began=utc_now(),
        )

    @classmethod
    def read(cls, directory: Path) -> Self:
        """That of a run directory.

        Raises:
            UserError: it is none, or the file is damaged.
        """
        try:
            return cls.model_validate_json(read_text(directory / FILE, MIB), strict=True)
        except ValidationError as error:
            found = in_short(error, cls)
        except FileNotFoundError:
            found = f"no {FILE} in it" if directory.is_dir() else "no such directory"
            if directory.is_file():
                found = "a file"
        except OSError as error:
            found = error.strerror or str(error)
        raise UserError(
            str(directory),
            expected="the directory of a run, as `fedphd run` made it",
            found=found,
            remedy="give the directory that the run printed; `fedphd run` begins a new one from a YAML file",
        )

    def write(self, directory: Path) -> None:
        """Makes a directory this run's."""
        write_whole(directory / FILE, self.model_dump_json(indent=1).encode())

    def goes_on_as(self, experiment: Experiment, directory: Path) -> tuple["Identity", list[str]]:
        """The identity with which a run goes on under an experiment, and sentences on what has changed.

        More rounds may be asked for, and another `runtime`; everything else must be as it was.

        Raises:
            UserError: it is another experiment.
        """
        new = {"settings": dict(experiment.settings), "data_sha256": experiment.dataset.content_hash}
        before, now = dict(leaves(decisive(self.settings))), dict(leaves(decisive(experiment.settings)))
        changed = [
            f"{key}: {shown(now.get(key))} instead of {shown(before.get(key))}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        ]
        rounds, former = experiment.schedule.rounds, int(self.settings["schedule"]["rounds"])
        if rounds < former:
            changed.append(f"schedule.rounds: {rounds} instead of {former}")
        if not changed and new["data_sha256"] != self.data_sha256:
            changed.append("the images and labels of the data set")
        if not changed and self.pretrained_sha256 not in (None, _pretrained(experiment)):
            changed.append("the parameters of the network that model.pretrained names")
        if changed:
            raise UserError(
                str(directory),
                expected="the settings with which the run began; schedule.rounds may grow, and runtime may change",
                found="; ".join(changed),
                remedy="put them back in its config.yaml, or begin another run with `fedphd run`",
            )
        notes = []
        if rounds > former:
            notes.append(
                f"the run goes on to round {rounds}; it was planned for {former}, after which its edges were synchronised as "
                "after every last round"
            )
        threads, were = (int(tree["runtime"]["threads_per_host"]) for tree in (experiment.settings, self.settings))
        if threads != were:
            notes.append(f"runtime.threads_per_host is {threads} and was {were}: the last bits will differ")
        return self.model_copy(update=new), notes


def _pretrained(experiment: Experiment) -> str | None:
    saved = experiment.spec.pretrained
    return None if saved is None else saved.sha256


def decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run may not change on its way."""
    kept = {key: value for key, value in settings.items() if key not in UNDECIDED}
    kept["schedule"] = {key: value for key, value in settings.get("schedule", {}).items() if key != "rounds"}
    return kept


def config_sha256(settings: Mapping[str, Any]) -> str:
    """Of everything in a configuration that decides results, the number of rounds included."""
    rounds = settings.get("schedule", {}).get("rounds")
    return hashlib.sha256(json.dumps([decisive(settings), rounds], sort_keys=True).encode()).hexdigest()
