"""A run as lines of JSON: all that happens, with whom it happened to."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

from federations import Recorder, federate, method, tiny
from typer.testing import CliRunner

from fedphd_ray.cli import app
from fedphd_ray.reporters.json_log import JsonLog
from fedphd_ray.runtime.events import Ended, Event, Replaced, RoundDone, Saved
from fedphd_ray.settings.yaml_files import dump_yaml


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line, parse_constant=lambda name: 1 / 0) for line in text.splitlines()]


class Both(Recorder):
    """Tells another."""

    def __init__(self, other: JsonLog) -> None:
        super().__init__()
        self.other = other

    def on_event(self, event: Event) -> None:
        super().on_event(event)
        self.other.on_event(event)


def test_what_happens_in_a_run() -> None:
    out, config = io.StringIO(), tiny(faults=[{"kind": "nan", "round": 2, "client": 0}])
    outcome = federate(config, reporter=Both(JsonLog(out, "mine")))
    told = lines(out.getvalue())
    assert {line["run"] for line in told} == {"mine"}
    by_event = {event: [line for line in told if line["event"] == event] for event in {line["event"] for line in told}}
    assert [line["round"] for line in by_event["round"]] == [1, 2, 3, 4]
    assert [line["edges"] for line in by_event["planned"]] == [json.loads(json.dumps(plan.edge_of)) for plan in outcome.plans]
    (left,) = by_event["left_out"]
    assert (left["round"], left["client"], left["level"], left["outcome"]) == (2, 0, "warning", "failed")
    assert left["edge"] == outcome.plans[1].edge_of[0]
    assert by_event["pruned"][0]["version"] == 1
    assert by_event["ended"][0]["round"] == 4


def test_what_is_no_number_is_null_and_a_death_is_a_warning() -> None:
    out = io.StringIO()
    log, outcome = JsonLog(out, "mine"), federate(method("fedavg"))
    log.on_event(RoundDone(replace(outcome.records[0], loss=math.nan), None))
    log.on_event(Replaced(3, "host/1 died"))
    log.on_event(Saved(3))
    log.on_event(Ended(4))
    told = lines(out.getvalue())
    assert told[0]["loss"] is None
    assert (told[1]["level"], told[1]["message"]) == ("warning", "host/1 died")
    assert [line["event"] for line in told] == ["round", "replaced", "saved", "ended"]


def test_the_command_says_nothing_else(tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    judged = method("fedavg", evaluation={"every": 2, "num_samples": 20, "steps": 2})
    config.write_text(dump_yaml(judged.model_dump(mode="json")))
    done = CliRunner().invoke(app, ["run", str(config), "--json-log", "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    told = lines(done.stdout)
    assert [line["round"] for line in told if line["event"] == "judged"] == [0, 2, 4]
    assert told[-1]["message"] == f"run directory: {tmp_path / 'run'}"
