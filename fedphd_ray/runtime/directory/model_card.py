"""The model card beside a delivered model: what it is, how it was made, and how to draw from it, in Hugging Face's form."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedphd_ray.runtime.directory.run_directory import Summary
from fedphd_ray.settings.yaml_files import dump_yaml
from fedphd_ray.system.files import write_whole

STOCK = """from diffusers import DDIMPipeline

images = DDIMPipeline.from_pretrained({folder!r})(batch_size=4, num_inference_steps=20).images
"""
OWN = """from pathlib import Path

from fedphd_ray.generate import generate

images = generate(Path({folder!r}), 4, 0, 20, print)  # [4, C, H, W] in [0, 1]
"""


def write_model_card(summary: Summary, settings: Mapping[str, Any], folder: Path) -> None:
    """Writes `README.md` into the folder of a model; the path in its snippet is `model`, where a user may have put it."""
    write_whole(folder / "README.md", model_card(summary, settings).encode())


def model_card(summary: Summary, settings: Mapping[str, Any]) -> str:
    """The text, from the facts of a finished run."""
    stock = summary.stock_export.startswith("opens with diffusers.DDIMPipeline")
    head = {"library_name": "diffusers", "pipeline_tag": "unconditional-image-generation"}
    head["tags"] = ["federated-learning", "diffusion", "fedphd"]  # type: ignore[assignment]  # YAML has lists, too
    data, schedule, pruning = settings["data"], settings["schedule"], settings["pruning"]
    hierarchy = settings["hierarchy"]
    lines = [
        "---",
        dump_yaml(head).rstrip(),
        "---",
        "",
        f"# {summary.name}",
        "",
        f"A diffusion model (a U-Net that predicts noise), trained by federated learning with **{summary.strategy}**",
        f"(fedphd_ray {summary.versions.get('fedphd-ray', '')}).",
        "",
        "## Use",
        "",
        "```python",
        (STOCK if stock else OWN).format(folder="model").rstrip(),
        "```",
        "",
        summary.stock_export[:1].upper() + summary.stock_export[1:] + ".",
        "",
        "## Training",
        "",
        f"- Data: `{data['name']}`, divided among {data['num_clients']} clients by `{json.dumps(data['partition'])}`; "
        f"SHA-256 {summary.data_sha256}.",
        f"- Federation: {summary.rounds} rounds, {schedule['clients_per_round']} clients a round, seed {summary.seed};",
        f"  {hierarchy['num_edges']} edges, the cloud every {hierarchy['cloud_period']} rounds.",
        f"- Pruning: `{json.dumps(pruning)}`.",
        f"- {summary.began} to {summary.ended}; {summary.machine}; {summary.precision}.",
        "",
        "## Figures",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in _figures(summary)),
        "",
        "Distances depend on the network whose features they compare, and on the number of samples: compare them with figures of",
        "the same protocol only. Whatever bias the clients' images have, the model has.",
        "",
        "## Licence",
        "",
        "Weights inherit the terms of the images they were trained on; say which they are before you publish them.",
        "",
        f"Model SHA-256: `{summary.model_sha256}`.",
        "",
    ]
    return "\n".join(lines)


def _figures(summary: Summary) -> list[tuple[str, str]]:
    """Names and values; where clients have whole models of their own, theirs are told apart from the cloud's."""
    own, theirs = [], "of clients' own models, each against the client's own images"
    if summary.personal_fid is not None and summary.personal_kid is not None:
        own = [
            (f"Frechet distance {theirs}", f"{summary.personal_fid:.3f} (mean)"),
            (f"kernel distance {theirs}", f"{summary.personal_kid:.4f} (mean)"),
        ]
    whose = " of the cloud's model" if own else ""
    return [
        (f"Frechet distance{whose}", "not measured" if summary.fid is None else f"{summary.fid:.3f}"),
        (f"kernel distance{whose}", "not measured" if summary.kid is None else f"{summary.kid:.4f}"),
        *own,
        *(
            (name.replace("_", " "), "not measured" if value is None else f"{value:.4g}")
            for name, value in summary.metrics.items()
        ),
        ("in the features of", summary.fid_features or "-"),
        ("samples and steps", f"{summary.evaluation.get('num_samples')}, {summary.evaluation.get('steps')} (DDIM)"),
        ("parameters", f"{summary.params_final:,} (dense: {summary.params_dense:,})"),
        ("MACs of a forward pass", f"{summary.macs_final:,} (dense: {summary.macs_dense:,})"),
        ("bytes sent in training", f"{sum(summary.bytes_by_hop.values()):,}"),
        ("saved over the cloud's link against flat FedAvg", f"{summary.cloud_saving:.1%}"),
    ]
