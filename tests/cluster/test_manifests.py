"""Every manifest is what its operator takes: KubeRay's fields, Kubernetes' pods, Ray's cluster file, a shell script."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from fedphd_ray.config import load_config, parse_config

CLUSTER = Path(__file__).parents[2] / "cluster"
KUBERNETES = CLUSTER / "kubernetes"
SCHEMA = json.loads((Path(__file__).parent / "kuberay.json").read_text())
KUBECTL = shutil.which("kubectl")
OVERLAYS = ("base", "overlays/kind", "overlays/gpu")


def documents(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one]


def manifests() -> list[Any]:
    files = [path for path in KUBERNETES.rglob("*.yaml") if path.name not in ("kustomization.yaml", "experiment.yaml")]
    return [
        pytest.param(one, id=f"{path.relative_to(KUBERNETES)}-{one['kind']}")
        for path in files
        for one in documents(path.read_text())
    ]


def require_valid(manifest: dict[str, Any]) -> None:
    """By the schema of its kind, and every pod in it by Kubernetes' own."""
    if manifest["apiVersion"] != "ray.io/v1":
        kubernetes_validate.validate(manifest, "1.33", strict=True)
        return
    jsonschema.validate(manifest, {"$ref": f"#/$defs/{manifest['kind']}", "$defs": SCHEMA["$defs"]})
    spec = manifest["spec"] if manifest["kind"] == "RayCluster" else manifest["spec"]["rayClusterSpec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        template = {"metadata": {"name": "pod"}} | group["template"]
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **template}, "1.33", strict=True)
        _require_safe(group["template"]["spec"])


def _require_safe(pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    mounted = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        assert (
            container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
        )  # KubeRay sizes Ray by it
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert {mount["name"] for mount in container["volumeMounts"]} == mounted
        assert "/dev/shm" in {mount["mountPath"] for mount in container["volumeMounts"]}  # 64 MiB would send models to disk


@pytest.mark.parametrize("manifest", manifests())
def test_a_manifest_is_valid(manifest: dict[str, Any]) -> None:
    require_valid(manifest)


@pytest.mark.skipif(KUBECTL is None, reason="kubectl, which has kustomize in it, is not installed")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_builds_and_is_valid(overlay: str) -> None:
    built = subprocess.run(["kubectl", "kustomize", KUBERNETES / overlay], capture_output=True, text=True, check=True)
    found = {one["kind"]: one for one in documents(built.stdout)}
    assert set(found) == {"RayJob", "PersistentVolumeClaim", "ConfigMap"}
    for one in found.values():
        require_valid(one)
    job, experiment = found["RayJob"]["spec"], found["ConfigMap"]
    cluster = job["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    volumes = {volume["name"]: volume for volume in cluster["headGroupSpec"]["template"]["spec"]["volumes"]}
    assert volumes["experiment"]["configMap"]["name"] == experiment["metadata"]["name"]
    assert job["backoffLimit"] >= 1
    assert "--resume-if-exists" in job["entrypoint"]
    assert cluster["authOptions"] == {"mode": "token"}
    config = parse_config(yaml.safe_load(experiment["data"]["experiment.yaml"]))
    labels = [group["labels"] for group in cluster["workerGroupSpecs"]]
    assert all(any(wanted.items() <= own.items() for own in labels) for wanted in config.runtime.edge_labels)
    images = {container["image"] for group in groups for container in group["template"]["spec"]["containers"]}
    assert images == {"fedphd-ray:0.2.0-cuda" if config.runtime.gpus_per_host else "fedphd-ray:0.2.0"}
    limits = [group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in cluster["workerGroupSpecs"]]
    assert all(("nvidia.com/gpu" in own) == (config.runtime.gpus_per_host > 0) for own in limits)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "workerGroupSpecs", 0, "replica"), 1),
        (("spec", "authOptions", "mode"), "none"),
        (("spec", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "imagge"), "x"),
        (("spec", "headGroupSpec", "template", "spec", "containers", 0, "resources", "limits", "memory"), []),
    ],
    ids=str,
)
def test_a_wrong_field_is_found(path: tuple[str | int, ...], value: object) -> None:
    (manifest,) = documents((KUBERNETES / "raycluster.yaml").read_text())
    node: Any = manifest
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError, AssertionError)):
        require_valid(manifest)


def test_the_experiments_of_manifests_are_valid() -> None:
    for path in KUBERNETES.rglob("experiment.yaml"):
        load_config(path)


def test_the_cluster_file_of_ray_up_is_valid() -> None:
    config = yaml.safe_load((CLUSTER / "on-premises.yaml").read_text())
    validate_config(prepare_config(config))
    commands = " ".join(config["head_start_ray_commands"] + config["worker_start_ray_commands"])
    assert commands.count("RAY_AUTH_MODE=token") == 2
    assert "--dashboard-host=127.0.0.1" in commands


def test_the_slurm_script_parses() -> None:
    subprocess.run(["bash", "-n", CLUSTER / "slurm.sh"], check=True)
