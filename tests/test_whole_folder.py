"""A folder that is written beside and put in the place of whatever was there."""

import contextlib
import os
import shutil
from pathlib import Path

import pytest
from federations import Recorder, tiny

from fedphd_ray.runtime.driver import run as runs
from fedphd_ray.system.files import whole_folder

HARMS = ["nothing", "file", "folder", "full folder", "link", "pipe"]


def lay(harm: str, path: Path, precious: Path) -> None:
    """Something in a folder's or a file's place."""
    if harm in ("folder", "full folder"):
        path.mkdir()
    if harm == "full folder":
        (path / "old").mkdir()
        (path / "old/file").write_text("old")
    if harm == "file":
        path.write_text("old")
    if harm == "link":
        path.symlink_to(precious)
    if harm == "pipe":
        os.mkfifo(path)


@pytest.mark.parametrize("partial", HARMS)
@pytest.mark.parametrize("harm", HARMS)
def test_it_takes_the_place_of_anything(harm: str, partial: str, tmp_path: Path) -> None:
    """What a link points to stays."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    lay(harm, tmp_path / "model", precious)
    lay(partial, tmp_path / ".model.partial", precious)
    with whole_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("new")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["weights"]
    assert not (tmp_path / "model").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "precious"]
    assert (precious / "file").read_text() == "mine"


def test_what_was_there_stays_until_the_new_is_whole(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("old")
    with contextlib.suppress(RuntimeError), whole_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("new")
        raise RuntimeError
    assert (tmp_path / "model/weights").read_text() == "old"


@pytest.mark.parametrize("harm", ["folder", "full folder"])
@pytest.mark.parametrize("name", ["model", "model/diffusion_pytorch_model.safetensors", "model/scheduler", "model/README.md"])
def test_a_run_ends_well_whatever_lies_in_the_place_of_its_model(name: str, harm: str, tmp_path: Path) -> None:
    """Stopped in its last round, and damaged: the resumed run delivers the same model."""
    config = tiny(checkpoint={"every": 1})
    whole = runs.run(config.build(), tmp_path / "run", Recorder())
    (tmp_path / "run/summary.json").unlink()
    shutil.rmtree(tmp_path / "run/checkpoints/round-000004")
    path = tmp_path / "run" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    lay(harm, path, tmp_path)
    assert runs.resume(config.build(), tmp_path / "run", Recorder()).model_sha256 == whole.model_sha256
    assert (tmp_path / "run/model/README.md").is_file()
