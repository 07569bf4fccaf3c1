"""Model files from strangers: read as they are, or refused by an error of ours; no code of theirs runs."""

import pickle
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from federations import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedphd_ray.diffusion.process import load_process
from fedphd_ray.diffusion.pruned_unet import load_unet
from fedphd_ray.errors import ModelFileError
from fedphd_ray.federation.prune import plan_pruning
from fedphd_ray.pruning.plan import PrunePlan
from fedphd_ray.records import Payload
from fedphd_ray.runtime.directory.run_directory import save_model
from fedphd_ray.runtime.driver.cloud import Cloud  # noqa: F401 - pickle users of the runtime are loaded before pickle is forbidden


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned model as a run delivers it: its own files and the stock pipeline."""
    from fedphd_ray.diffusion.unet import initial_state  # noqa: PLC0415
    from fedphd_ray.tensors import Layout  # noqa: PLC0415

    directory = tmp_path_factory.mktemp("model")
    experiment = tiny().build()
    state = initial_state(experiment.spec, 0)
    layout = Layout.of(state)
    dense = Payload(layout.flatten(state).numpy(), layout, 0)
    plan: PrunePlan = plan_pruning(experiment.spec, dense, 0.5)
    save_model(experiment, plan.cut_payload(dense), directory)
    return directory


def forbidden(*_: object, **__: object) -> NoReturn:
    raise AssertionError("a model file was unpickled")


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_model_files_are_refused_by_an_error_of_ours(
    data: st.DataObject, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, forbidden)
    path = data.draw(st.sampled_from(sorted(path for path in saved.rglob("*") if path.is_file())))
    content = path.read_bytes()
    near_start = data.draw(st.booleans())  # headers are where parsers break
    position = data.draw(st.integers(0, min(len(content), 4000) - 1 if near_start else len(content) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "garbage", "pickle"]))
    damaged = {
        "flip": content[:position] + bytes([content[position] ^ (1 << data.draw(st.integers(0, 7)))]) + content[position + 1 :],
        "cut": content[:position],
        "garbage": content[:position] + data.draw(st.binary(max_size=16)) + content[position:],
        "pickle": b"\x80\x04cos\nsystem\n(S'exit 1'\ntR.",
    }[kind]
    try:
        path.write_bytes(damaged)
        unet, process = load_unet(saved), load_process(saved)
        assert process.config.num_timesteps > 0
        assert all(parameter.dtype == torch.float32 for parameter in unet.parameters())
    except ModelFileError as error:
        refusal = str(error)
    else:
        refusal = ""
    finally:
        path.write_bytes(content)
    assert not refusal or str(saved) in refusal
