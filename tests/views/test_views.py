"""Lists, live views and reports read a run in any state, and say what its own files say."""

import html
import json
import os
import re
import shutil
import socket
import subprocess
import tracemalloc
from pathlib import Path

import pytest
from federations import Recorder, tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import fedphd_in_process, within

from fedphd_ray.errors import RunFailedError, UserError
from fedphd_ray.experiments import stress as grids
from fedphd_ray.runtime.directory.run_directory import Summary
from fedphd_ray.runtime.directory.status import Status, at_work_in
from fedphd_ray.runtime.driver import run as runs
from fedphd_ray.runtime.events import Judged, RoundDone
from fedphd_ray.views.charts import charts
from fedphd_ray.views.grid_page import write_grid_page
from fedphd_ray.views.network import widths
from fedphd_ray.views.page import differences, labels, page
from fedphd_ray.views.run_view import RunView, runs_below
from fedphd_ray.views.watching import watch

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything: pruned in the middle, judged, on simulated devices that leave."""
    config = tiny(
        evaluation={"every": 2, "num_samples": 20, "steps": 2},
        checkpoint={"every": 1},
        devices={"preset": "mixed", "dropout": {"training": 0.3}},
    )
    directory = tmp_path_factory.mktemp("views") / "whole"
    runs.run(config.build(), directory, Recorder(), config_yaml=config.to_yaml())
    return directory


def cut(whole: Path, directory: Path, *gone: str, state: str = "running", process: int = 2**22 + 1) -> Path:
    """The run as it was before its end: some files are missing, and its process says something of itself or cannot any more."""
    shutil.copytree(whole, directory)
    for name in gone:
        path = directory / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    said = Status(state=state, host=socket.gethostname(), process=process, since="2026-01-01T00:00:00+00:00", why="full disk")  # type: ignore[arg-type]
    (directory / "status.json").write_text(said.model_dump_json())
    return directory


END = ("summary.json", "model")
STATES = {
    "finished": lambda whole, at: whole,
    "died": lambda whole, at: cut(whole, at, *END),
    "running": lambda whole, at: cut(whole, at, *END, process=os.getpid()),
    "failed": lambda whole, at: cut(whole, at, *END, state="failed"),
    "stopped": lambda whole, at: cut(whole, at, *END, state="stopped"),
    "begun": lambda whole, at: cut(
        whole, at, *END, "metrics.jsonl", "quality.jsonl", "ledger", "clients", "samples", "checkpoints", process=os.getpid()
    ),
}


@pytest.mark.parametrize("state", STATES)
def test_a_run_in_any_state_is_listed_and_reported(state: str, whole: Path, tmp_path: Path) -> None:
    directory = STATES[state](whole, tmp_path / "run")
    expected = "running" if state == "begun" else state
    (listed,) = json.loads(fedphd_in_process("list", directory, "--json").partition("\n")[2])
    assert (listed["state"], listed["round"], listed["rounds"]) == (expected, 0 if state == "begun" else 4, 4)
    assert expected in fedphd_in_process("list", directory)
    text = page([RunView.of(directory)])
    assert f"{expected}, round {listed['round']} of 4" in text
    assert ("full disk" in text) == (state not in ("finished",))
    said = fedphd_in_process("report", directory, "--out", tmp_path / "r.html")
    assert "r.html" in said


@pytest.mark.parametrize("state", ["finished", "died", "failed", "stopped"])
def test_watching_a_run_that_is_over_tells_all_of_it(state: str, whole: Path, tmp_path: Path) -> None:
    directory, recorder = STATES[state](whole, tmp_path / "run"), Recorder()
    run = watch(directory, recorder)
    assert run.state == state
    assert [event.record.round for event in recorder.events if isinstance(event, RoundDone)] == [1, 2, 3, 4]
    assert [event.round for event in recorder.events if isinstance(event, Judged)] == [0, 2, 4]
    said = fedphd_in_process("watch", directory)
    assert ("goes on from the last checkpoint" in said) == (state != "finished")


def test_watching_goes_on_while_rounds_come_and_starts_again_when_they_are_taken_back(whole: Path, tmp_path: Path) -> None:
    directory = cut(whole, tmp_path / "run", *END, process=os.getpid())
    lines = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)
    steps = ["".join(lines[:1]), "".join(lines[:2]) + lines[2][:40], lines[0], "".join(lines)]
    (directory / "metrics.jsonl").write_text(steps.pop(0))
    recorder = Recorder()

    def pause(seconds: float) -> None:
        if steps:
            (directory / "metrics.jsonl").write_text(steps.pop(0))
        else:
            cut_status = Status(state="stopped", host="h", process=1, since="")
            (directory / "status.json").write_text(cut_status.model_dump_json())

    watch(directory, recorder, pause)
    rounds = [event.record.round for event in recorder.events if isinstance(event, RoundDone)]
    assert rounds == [1, 2, 1, 2, 3, 4]


def test_a_page_says_what_the_summary_says(whole: Path) -> None:
    run, summary = RunView.of(whole), Summary.read(whole)
    assert summary is not None
    text = html.unescape(page([run]))
    for figure in (summary.model_sha256, summary.data_sha256, summary.command, f"{summary.fid:.2f}"):
        assert figure in text
    assert run.bytes_by_hop == summary.bytes_by_hop
    assert f"{sum(summary.bytes_by_hop.values()):,}" in text
    assert "down_blocks.0.resnets.0.conv1" in text  # a layer that was cut
    titles = {chart.title for chart in charts([("run", run)])}
    assert titles >= {"Quality by round", "Quality against simulated time", "Traffic", "Who took part", "Time by phase", "Loss"}


def test_a_run_without_a_clock_is_in_no_picture_of_simulated_time(whole: Path, tmp_path: Path) -> None:
    directory = cut(whole, tmp_path / "run")
    lines = [json.loads(line) | {"sim_seconds": 0.0} for line in (whole / "metrics.jsonl").read_text().splitlines()]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn = {
        chart.title: {row["run"] for row in chart.rows}
        for chart in charts([("with", RunView.of(whole)), ("without", RunView.of(directory))])
    }
    assert drawn["Quality against simulated time"] == {"with"}
    assert drawn["Quality against bytes sent"] == drawn["Quality by round"] == {"with", "without"}


def test_nothing_in_a_run_becomes_markup(whole: Path, tmp_path: Path) -> None:
    directory = cut(whole, tmp_path / "run", *END, state="failed")
    evil = "</script><script>alert(1)</script>"
    status = json.loads((directory / "status.json").read_text()) | {"why": evil}
    (directory / "status.json").write_text(json.dumps(status))
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    lines[0] |= {"failures": {"1": evil}, "outcomes": {"1": evil}, "homogeneity": {evil: 1.0, "b": 2.0}}
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = page([RunView.of(directory)])
    assert "alert(1)" in text
    assert "<script>alert" not in text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2000) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30), JSON), max_size=4), tail=st.binary(max_size=20))
def test_books_that_say_nonsense_are_read_all_the_same(
    changes: list[tuple[int, int, object]], tail: bytes, whole: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    if not directory.exists():
        cut(whole, directory, *END)
    for name in ("metrics.jsonl", "quality.jsonl"):
        lines = [json.loads(line) for line in (whole / name).read_text().splitlines()]
        for at, key, value in changes:
            line = lines[at % len(lines)]
            line[sorted(line)[key % len(line)]] = value
        (directory / name).write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines) + tail)
    assert "</html>" in page([RunView.of(directory)])
    watch(directory, Recorder())


def test_runs_side_by_side_are_told_apart_and_their_differences_named(whole: Path, tmp_path: Path) -> None:
    other = cut(whole, tmp_path / "b")
    identity = json.loads((other / "run.json").read_text())
    identity["settings"]["schedule"]["clients_per_round"] = 3
    (other / "run.json").write_text(json.dumps(identity))
    views = [RunView.of(whole), RunView.of(other)]
    assert len(set(labels(views))) == 2
    named = list(zip(labels(views), views, strict=True))
    assert differences(named) == [("schedule.clients_per_round", ["4", "3"])]
    assert "clients_per_round" in page(views)


def test_what_is_no_run_is_refused_or_passed_over(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run\.json in it"):
        RunView.of(tmp_path)
    shutil.copytree(whole, tmp_path / "a/b/good")
    (tmp_path / "a/bad").mkdir()
    (tmp_path / "a/bad/run.json").write_text("{")
    assert [run.directory for run in runs_below(tmp_path)] == [tmp_path / "a/b/good"]
    assert "no such folder" in fedphd_in_process("list", tmp_path / "none", code=2)
    assert "one of path, name" in fedphd_in_process("list", tmp_path, "--sort", "size", code=2)


def test_a_process_says_how_its_work_ended(tmp_path: Path) -> None:
    with at_work_in(tmp_path):
        said = Status.read(tmp_path)
        assert said is not None
        assert (said.state, said.alive, said.process) == ("running", True, os.getpid())
    assert Status.read(tmp_path).state == "finished"  # type: ignore[union-attr]
    with pytest.raises(RunFailedError), at_work_in(tmp_path):
        raise RunFailedError("nobody answers")
    assert (Status.read(tmp_path).state, Status.read(tmp_path).why) == ("failed", "nobody answers")  # type: ignore[union-attr]
    with pytest.raises(UserError), at_work_in(tmp_path):
        raise UserError("checkpoint", expected="one", found="none")
    assert Status.read(tmp_path).state == "failed"  # type: ignore[union-attr]  # as it was before
    with pytest.raises(KeyboardInterrupt), at_work_in(tmp_path):
        raise KeyboardInterrupt
    assert Status.read(tmp_path).state == "stopped"  # type: ignore[union-attr]


def lay(harm: str, path: Path) -> None:
    """Something in the place of a file."""
    if harm == "huge":
        with path.open("wb") as file:
            file.truncate(10 * 2**30)
    else:
        os.mkfifo(path) if harm == "pipe" else path.mkdir()


@pytest.mark.parametrize("harm", ["huge", "pipe", "folder"])
def test_whatever_lies_in_the_place_of_a_status_is_not_read(harm: str, tmp_path: Path) -> None:
    """Ten gigabytes, or somebody who never writes: neither memory nor time is spent on it."""
    lay(harm, tmp_path / "status.json")
    tracemalloc.start()
    try:
        with at_work_in(tmp_path):
            pass
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    said = Status.read(tmp_path)
    assert (said is None) == (harm == "folder")
    assert said is None or said.state == "finished"


@pytest.mark.parametrize("harm", ["huge", "pipe", "folder"])
def test_a_refusal_is_what_it_was_whatever_lies_in_the_place_of_a_status(harm: str, tmp_path: Path) -> None:
    lay(harm, tmp_path / "status.json")
    with pytest.raises(UserError), at_work_in(tmp_path):
        raise UserError("checkpoint", expected="one", found="none")


def test_ten_thousand_clients_are_listed_watched_and_reported(tmp_path: Path) -> None:
    """A fifth of them in each of five rounds, without a training step; the page groups them, and stays small."""
    config = tiny(
        data={"name": "shapes", "image_size": 8, "num_images": 20_000, "num_clients": 10_000, "partition": {"name": "iid"}},
        schedule={"rounds": 5, "clients_per_round": 2000},
        local={"steps": 0},
        devices={"preset": "mixed"},
    )
    runs.run(config.build(), tmp_path / "run", Recorder(), config_yaml=config.to_yaml())
    (listed,) = json.loads(fedphd_in_process("list", tmp_path, "--json").partition("\n")[2])
    assert (listed["state"], listed["round"]) == ("finished", 5)
    assert "round 5" in fedphd_in_process("watch", tmp_path / "run")
    fedphd_in_process("report", tmp_path / "run", "--out", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "Of 10,000 clients" in text
    assert re.search(r"clients, \d+ to a row", text)
    assert (tmp_path / "r.html").stat().st_size < 5e6
    if CHROMIUM is not None:
        require_drawn(tmp_path / "r.html", len(charts([("run", RunView.of(tmp_path / "run"))])), tmp_path)


def require_drawn(path: Path, number: int, tmp_path: Path) -> None:
    """A page in a browser: so many charts, and not a word on the console."""
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000", "--enable-logging=stderr"]
    done = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=300, check=True
    )
    assert "CONSOLE" not in done.stderr, done.stderr[-3000:]
    assert done.stdout.count('data-drawn="true"') == number
    assert done.stdout.count("<svg") >= number


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")
@pytest.mark.parametrize("several", [False, True], ids=["one run", "two runs"])
def test_a_browser_draws_every_chart_and_asks_nobody(several: bool, whole: Path, tmp_path: Path) -> None:
    views = [RunView.of(whole)] * (1 + several)
    path = tmp_path / "report.html"
    path.write_text(page(views))
    assert path.stat().st_size < 5_000_000
    assert not re.search(r"<(?:img|script|link|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//", path.read_text())
    number = len(charts([(str(at), view) for at, view in enumerate(views)]))
    assert number >= 4
    require_drawn(path, number, tmp_path)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")
def test_a_browser_draws_a_grid_of_experiments(tmp_path: Path) -> None:
    cells = [grids.Cell(f"cell-{share}", {"devices.classes.1.share": share}) for share in ("0", "0.3")]
    kinds: list[dict[str, int]] = [{"slow": 5, "fast": 15}, {"slow": 9, "fast": 60}, {"slow": 8, "fast": 1}]
    runs = [
        grids.Measured(
            cell, name, 1, 8.0, 0.5, 100.0, {0: (0.0, 60.0)}, 10**7, 10**8, {"client_to_edge": 10**8}, 9, 9, *kinds, 2.0
        )
        for cell in cells
        for name in ("fedphd", "fedavg")
    ]
    write_grid_page(runs, 10.0, tmp_path / "stress.html", "a grid", "fedphd stress")
    require_drawn(tmp_path / "stress.html", 3, tmp_path)


@pytest.mark.parametrize("harm", ["huge", "pipe", "folder", "cut"])
def test_a_report_does_without_weights_whatever_lies_in_their_place(harm: str, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    assert widths(RunView.of(run))
    (weights,) = (run / "model").glob("*.safetensors")
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[:1000]) if harm == "cut" else lay(harm, weights)
    with within(60):
        assert widths(RunView.of(run)) == []
        assert "Channels by layer" not in page([RunView.of(run)])
