"""The report: one HTML file of a run, or of several side by side, that asks nobody for anything."""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from fedphd_ray.errors import UserError
from fedphd_ray.report import text
from fedphd_ray.settings.overrides import leaves
from fedphd_ray.settings.yaml_files import dump_flow, dump_yaml
from fedphd_ray.system.files import MIB, read_regular, write_whole
from fedphd_ray.views.charts import Chart, charts, judged
from fedphd_ray.views.network import widths
from fedphd_ray.views.run_view import Line, RunView, quality_of

MOST_PICTURES, PICTURE_BYTES = 40, 2 * MIB
MOST_FAILURES, MOST_METRICS = 200, 20
BUNDLE = "window.vegaEmbed = vegaEmbed;"
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Sample:
    """A picture of samples, as a page holds it."""

    round: int
    source: str


def write_page(runs: Sequence[RunView], path: Path) -> None:
    """Writes the report of some runs.

    Raises:
        UserError: there are none, or the file cannot be written.
    """
    if not runs:
        raise UserError("report", expected="directories of runs", found="none")
    write_html(page(runs), path)


def write_html(content: str, path: Path) -> None:
    """Writes a page.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.encode())
    except OSError as error:
        raise UserError(f"--out {path}", expected="a file that can be written", found=error.strerror or str(error)) from error


def page(runs: Sequence[RunView]) -> str:
    """The HTML."""
    labelled = list(zip(labels(runs), runs, strict=True))
    return rendered(
        "report.html.j2",
        charts(labelled),
        title=labelled[0][0] if len(runs) == 1 else f"{len(runs)} runs side by side",
        runs=[_facts(label, run) for label, run in labelled],
        samples=samples(runs[0]) if len(runs) == 1 else [],
        widths=widths(runs[0]) if len(runs) == 1 else [],
        differences=differences(labelled) if len(runs) > 1 else [],
        config=dump_yaml(dict(runs[0].settings)) if len(runs) == 1 else "",
    )


def rendered(template: str, drawn: Sequence[Chart], **values: object) -> str:
    """A page with charts, from one of the templates of this folder."""
    environment = jinja2.Environment(loader=jinja2.PackageLoader("fedphd_ray.views", "."), autoescape=True, trim_blocks=True)
    environment.filters |= {"bytes": text.num_bytes, "duration": text.duration, "count": text.count, "percent": text.percent}
    return environment.get_template(template).render(
        charts=drawn,
        specs=Markup(_script_json([chart.spec for chart in drawn])),  # noqa: S704 - escaped there
        vega=Markup(_vega()),  # noqa: S704 - the library's own code
        **values,
    )


@cache
def _vega() -> str:
    """The library that draws charts, to stand in a script; bundling takes a second."""
    bundle: str = vl_convert.javascript_bundle(BUNDLE)
    return bundle.replace("</script", "<\\/script")


def labels(runs: Sequence[RunView]) -> list[str]:
    """What tells runs apart: method and seed where that does, else the path."""
    named = [f"{run.name}: {run.method}" for run in runs]
    if len(set(named)) < len(runs):
        named = [f"{name}, seed {run.settings.get('seed')}" for name, run in zip(named, runs, strict=True)]
    if len(set(named)) < len(runs):
        above = os.path.commonpath([run.directory.absolute().parent for run in runs])
        named = [os.path.relpath(run.directory.absolute(), above) for run in runs]
    return named


def samples(run: RunView) -> list[Sample]:
    """Pictures of the samples by round; of many, some, the last among them."""
    folder, found, total = run.directory / "samples", list[Sample](), 0
    paths = sorted(folder.glob("round-*.png")) if folder.is_dir() else []
    step = -(-len(paths) // MOST_PICTURES) or 1
    for path in [*paths[::step], *([] if (len(paths) - 1) % step == 0 else paths[-1:])]:
        number = path.stem.removeprefix("round-")
        try:
            data = read_regular(path, PICTURE_BYTES)
        except OSError:
            continue
        total += len(data)
        if data.startswith(PNG) and number.isdecimal() and total <= PICTURE_BYTES:
            found.append(Sample(int(number), "data:image/png;base64," + base64.b64encode(data).decode()))
    return found


def differences(runs: Sequence[tuple[str, RunView]]) -> list[tuple[str, list[str]]]:
    """Keys of the configuration in which runs differ, and each run's value."""
    trees = [dict(leaves(run.settings)) for _, run in runs]
    keys = sorted(set().union(*trees))
    table = [(key, [dump_flow(tree[key]) if key in tree else "–" for tree in trees]) for key in keys]
    return [(key, values) for key, values in table if len(set(values)) > 1]


def _facts(label: str, run: RunView) -> Mapping[str, Any]:
    """What the page says of a run in words and figures; from the summary where there is one."""
    summary, status = run.summary, run.status
    failures = [line for record in run.rounds for line in _failures(record)]
    measured = judged(run)
    return {
        "label": label,
        "run": run,
        "summary": summary,
        "why": "" if status is None else status.why,
        "untrained": next((line["fid"] for line, _, _ in measured if line["round"] == 0), None),
        "features": next((line.get("features") for line, _, _ in reversed(measured)), None),
        "metrics": _metrics(measured[-1][0]) if measured else {},
        "sent": sum(run.bytes_by_hop.values()),
        "hops": {text.hop(name): num for name, num in run.bytes_by_hop.items()},
        "sim_seconds": max((float(line.get("sim_seconds") or 0.0) for line in run.rounds), default=0.0),
        "failures": failures[:MOST_FAILURES],
        "more_failures": max(0, len(failures) - MOST_FAILURES),
        "replacements": [f"round {line.get('round')}: {why}" for line in run.rounds for why in line.get("replacements") or []],
    }


def _metrics(line: Line) -> dict[str, float]:
    quality = quality_of(line)
    return {} if quality is None else dict(islice(quality.metrics.items(), MOST_METRICS))


def _failures(record: Line) -> list[str]:
    outcomes = record.get("outcomes") or {}
    return [
        f"round {record.get('round')}: client/{client} {outcomes.get(client, 'failed')}: {str(why).strip().splitlines()[0]}"
        for client, why in (record.get("failures") or {}).items()
    ]


def _script_json(value: object) -> str:
    """JSON that may stand in a script: nothing in it ends the script."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
