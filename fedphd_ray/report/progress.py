"""Progress of a run: a live panel on a terminal, plain lines elsewhere."""

import time
from collections import Counter, defaultdict
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from fedphd_ray.diffusion.quality import QualityReport, in_words
from fedphd_ray.records import Outcome
from fedphd_ray.report import text
from fedphd_ray.runtime.directory.progress import RoundRecord
from fedphd_ray.runtime.events import Event, Judged, LeftOut, Pruned, Replaced, RoundDone, Sampled, Started
from fedphd_ray.runtime.policy.failures import first_line

PLAIN_LINE_SECONDS = 5.0
SAMPLES_LINE_SECONDS = 15.0
RECENT_ROUNDS = 20
IN_WORDS = {Outcome.FAILED: "failed", Outcome.LATE: "was late", Outcome.LOST: "was lost"}


class ConsoleProgress:
    """A reporter for people; use it as a context manager.

    Args:
        console: where to write; a live panel needs a terminal.
        rounds: rounds of the whole run.
        title: of the run, where there are several.
    """

    def __init__(self, console: Console, rounds: int, title: str = "") -> None:
        self._console = console
        self._rounds = rounds
        self._bytes: dict[str, int] = defaultdict(int)
        self._quality: tuple[int, QualityReport] | None = None
        self._first_quality: tuple[int, QualityReport] | None = None
        self._record: RoundRecord | None = None
        self._stamps: list[float] = []
        self._last_line = 0.0
        self._samples, self._last_samples = "", 0.0
        label = TextColumn(f"{title}  round".strip(), markup=False)
        columns = (label, BarColumn(bar_width=30), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
        self._bar = Progress(*columns, console=console)
        self._task = self._bar.add_task("rounds", total=rounds, left="")
        panel = console.is_terminal and not console.is_dumb_terminal
        self._live = Live(console=console, refresh_per_second=4, transient=True) if panel else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        """One sentence outside the panel."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)  # commands in it are copied

    def on_event(self, event: Event) -> None:
        """A line of its own for whatever is not a plain round; the panel or, every few seconds, a line for those."""
        match event:
            case Started(round, bytes_by_hop):  # counts on from what was sent before the run was stopped
                self._bytes = defaultdict(int, bytes_by_hop)
                self._bar.update(self._task, completed=round)
            case Sampled(round, num, of):
                self._on_samples(round, num, of)
            case Judged(round, quality):
                self._samples = ""
                self._first_quality = self._first_quality or (round, quality)
                self._quality = round, quality
                self.say(f"{'untrained' if round == 0 else f'round {round}'}: {in_words(quality)}")
                self._refresh()
            case LeftOut(round, client, _, outcome, why):
                became = f"client/{client} {IN_WORDS[outcome]}: {first_line(why)}"
                self.say(f"warning: round {round}: {became}; its update was not aggregated")
            case Replaced(round, why):
                self.say(f"note: round {round}: a process died and was replaced: {why}")
            case Pruned(round, _, num_params):
                self.say(f"round {round}: the network was pruned to {num_params:,} parameters; payloads are smaller from here on")
            case RoundDone(record, _):
                self._on_round(record)

    def _on_samples(self, round: int, num: int, of: int) -> None:
        """The panel shows every chunk; elsewhere a line now and then, where it takes long."""
        now = time.monotonic()
        if num == of or not self._samples:
            self._last_samples = now
        self._samples = f"{num:,} of {of:,}"
        if self._live is None and now - self._last_samples >= SAMPLES_LINE_SECONDS:
            self._last_samples = now
            self.say(f"round {round}: {self._samples} samples drawn to judge it")
        self._refresh()

    def _on_round(self, record: RoundRecord) -> None:
        for hop, num_bytes in record.bytes_by_hop.items():
            self._bytes[hop] += num_bytes
        self._record = record
        self._stamps = [*self._stamps[-RECENT_ROUNDS:], time.monotonic()]
        self._bar.update(self._task, completed=record.round, left=f"{self._time_left()} left")
        if self._live is None:
            self._plain_line(record)
        else:
            self._refresh()

    def _plain_line(self, record: RoundRecord) -> None:
        now = time.monotonic()
        if now - self._last_line < PLAIN_LINE_SECONDS and record.round < self._rounds:
            return
        self._last_line = now
        self.say(
            f"round {record.round}/{self._rounds}  loss {record.loss:.4f}  edges {_loads(record)}  "
            f"sent {text.num_bytes(sum(self._bytes.values()))}  {self._time_left()} left"
        )

    def _time_left(self) -> str:
        if self._record is None or len(self._stamps) < 2:
            return "?"
        pace = (self._stamps[-1] - self._stamps[0]) / (len(self._stamps) - 1)
        return text.duration(pace * (self._rounds - self._record.round))

    def _refresh(self) -> None:
        if self._live is None:
            return
        table = Table.grid(padding=(0, 2))
        if self._record is not None:
            table.add_row("loss", f"{self._record.loss:.4f}")
            table.add_row("clients per edge", _loads(self._record))
            homogeneity = "  ".join(f"{edge}: {score:.3f}" for edge, score in self._record.homogeneity.items())
            table.add_row("homogeneity (best 2)", homogeneity)
            table.add_row("sent", "  ".join(f"{text.hop(hop)} {text.num_bytes(num)}" for hop, num in self._bytes.items()))
            table.add_row("architecture", "pruned" if self._record.version else "dense")
        if self._samples:
            table.add_row("samples drawn", self._samples)
        if self._quality is not None and self._first_quality is not None:
            before = f" (round {self._first_quality[0]}: {self._first_quality[1].fid:.3f})"
            table.add_row("FID", f"{self._quality[1].fid:.3f} at round {self._quality[0]}{before}")
        self._live.update(Group(self._bar, table, Text("")))


def _loads(record: RoundRecord) -> str:
    """Participants per edge."""
    loads = Counter(record.participants.values())
    return "  ".join(f"{edge}: {loads.get(edge, 0)}" for edge in record.homogeneity)
