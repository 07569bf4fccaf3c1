"""The commands on saved models: drawing from them, and judging them."""

from pathlib import Path
from typing import Annotated

import typer

from fedphd_ray.errors import UserError
from fedphd_ray.system.threads import wait_passively
from fedphd_ray.terminal import at_work, say

ModelDir = Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A model, or a run directory.")]
Guidance = Annotated[float, typer.Option(min=0.0, help="How strongly a class-conditional model follows classes; 1: as learnt.")]


def sample(
    model_dir: ModelDir,
    out: Annotated[Path, typer.Option(metavar="FILE.png", help="The picture.")],
    num: Annotated[int, typer.Option(min=1, max=10_000, help="Images.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other images.")] = 0,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="DDIM steps.")] = 50,
    classes: Annotated[
        list[int],
        typer.Option("--class", min=0, metavar="N", help="Class to ask a class-conditional model for; may be repeated."),
    ] = [],  # noqa: B006
    guidance: Guidance = 1.0,
) -> None:
    """Draw images from a trained model into a grid."""
    wait_passively()
    with at_work(f"drawing {num} images from {model_dir}"):
        from fedphd_ray.diffusion.sampling import save_grid  # noqa: PLC0415
        from fedphd_ray.generate import generate  # noqa: PLC0415

        images = generate(model_dir, num, seed, steps, say, classes, guidance)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_grid(images, out, columns=min(10, num))
    except OSError as error:
        raise UserError(f"--out {out}", expected="a file that can be written", found=str(error)) from error
    say(f"{num} images in {out}")


def evaluate(
    model_dir: Annotated[
        Path, typer.Argument(metavar="MODEL_DIR", help="Run directory, model directory, or a folder of pictures.")
    ],
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME|CONFIG", help="`digits`, or an experiment's YAML file; default: the run's own."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="train|test", help="Images to compare with; default: those of the configuration.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="classifier, efficientnet_lite0 or inception:WEIGHTS_FILE; default: the run's own."),
    ] = None,
    num_samples: Annotated[int, typer.Option(min=2, help="Images to draw.")] = 1000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="DDIM steps.")] = 50,
    guidance: Guidance = 1.0,
    trust: Annotated[
        list[str], typer.Option("--trust", metavar="MODULE:NAME", help="A class of your own that the configuration names.")
    ] = [],  # noqa: B006
) -> None:
    """Quality figures of a saved model, or of a folder of pictures: FID, KID, precision, recall, classes."""
    wait_passively()
    with at_work(f"judging {num_samples} images of {model_dir}"):
        from fedphd_ray.generate import judge, named_features  # noqa: PLC0415

        chosen = None if features is None else named_features(features)
        judged = judge(model_dir, data, num_samples, seed, steps, say, split, chosen, guidance, trust)
    quality = judged.quality
    say(f"FID {quality.fid:.4f}, KID {quality.kid:.5f} ({judged.what}; features: {quality.features})")
    if quality.metrics:
        say(", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in quality.metrics.items()))
    histogram = " ".join(f"{label}:{num}" for label, num in enumerate(quality.class_histogram))
    say(f"classes among the samples: {histogram}")
    if quality.asked_for is not None:
        say(f"of the class they were asked for: {quality.asked_for:.1%}")
