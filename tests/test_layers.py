"""The walls of the architecture: imports point down, Ray has one home, files and functions stay readable."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fedphd_ray"
MODULES = sorted(PACKAGE.rglob("*.py"))

LAYERS = {
    "ground": 0,
    "settings": 0,
    "system": 0,
    "data": 1,
    "devices": 1,
    "diffusion": 1,
    "pruning": 1,
    "strategies": 2,
    "federation": 3,
    "runtime": 4,
    "surface": 5,
}
GROUND = {"errors", "plans", "population", "records", "seeds", "tensors", "topology", "__init__"}
RUNTIME = {"policy": 0, "workers": 1, "storage": 2, "on_ray": 2, "base": 3, "directory": 4, "driver": 5}
"""Rooms of the runtime; its own files are known to those above. Storage and Ray must not know one another."""
BLIND = {"data", "devices", "diffusion", "pruning"}
"""Rooms of one layer that must not know one another."""
FEDERATION = {"base": 0, "channel": 1, "training": 1, "submodels": 2, "sums": 2, "planning": 3}
"""Rooms of the federation; its own files are known to all of them."""


def room(parts: tuple[str, ...]) -> str:
    """The room of a module: its folder, or `ground` or `surface` for files at the top; other folders belong to the surface."""
    if len(parts) > 1 and parts[0] in LAYERS:
        return parts[0]
    return "ground" if parts[0] in GROUND else "surface"


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever the import stands in it, except for type checking only."""
    found = set()
    tree = ast.parse(path.read_text())
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_point_down(path: Path) -> None:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    own = room(parts)
    for module in imports(path):
        if not module.startswith("fedphd_ray."):
            continue
        target = tuple(module.split(".")[1:])
        if not (PACKAGE.joinpath(*target).is_dir() or PACKAGE.joinpath(*target).with_suffix(".py").is_file()):
            continue  # a name inside a module, whose module is looked at itself
        other = room(target) if len(target) > 1 or target[0] not in LAYERS else target[0]
        assert LAYERS[other] <= LAYERS[own], f"{name(path)} ({own}) imports {module} ({other})"
        assert own == other or not {own, other} <= BLIND, (
            f"{name(path)} imports {module}: {own} and {other} are blind to each other"
        )


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_rooms_point_down(path: Path) -> None:
    parts = path.relative_to(PACKAGE).parts
    floors = {"runtime": RUNTIME, "federation": FEDERATION}.get(parts[0], {})
    if not floors:
        return

    def floor(parts: tuple[str, ...]) -> str:
        return parts[1] if len(parts) > 2 else "base"

    own = floor(parts)
    for module in imports(path):
        target = tuple(module.split("."))[1:]
        if target[:1] != parts[:1] or not PACKAGE.joinpath(*target).with_suffix(".py").is_file():
            continue
        other = floor(target)
        assert floors[other] < floors[own] or other == own, f"{name(path)} ({own}) imports {module} ({other})"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_ray_and_torch_pruning_have_one_home(path: Path) -> None:
    top = {module.split(".")[0] for module in imports(path)}
    if "ray" in top:
        assert name(path).startswith("runtime/on_ray/")
    if "torch_pruning" in top:
        assert name(path) == "pruning/groups.py"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, f"{node.name} has {node.end_lineno - node.lineno + 1} lines"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_pickle_touches_the_disk(path: Path) -> None:
    called = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    loads = [node for node in called if ast.unparse(node.func) == "torch.load"]
    assert all("weights_only=True" in map(ast.unparse, node.keywords) for node in loads)  # a restricted unpickler
    assert not {ast.unparse(node.func) for node in called} & {"torch.save", "eval", "exec", "np.load", "numpy.load"}
    pickles = {module.split(".")[0] for module in imports(path)} & {"pickle", "cloudpickle", "dill", "shelve", "marshal"}
    if name(path) == "data/unpickling.py":  # CIFAR's Python version, with an unpickler that calls nothing that a file names
        used = {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert {one for one in used if one.startswith("pickle.")} == {"pickle.Unpickler", "pickle.UnpicklingError"}
    else:
        assert not pickles


def test_every_package_module_is_looked_at() -> None:
    assert len(MODULES) > 30


def test_vectors_of_several_senders_are_added_in_one_function() -> None:
    """`apply_update` adds the base to their mean; methods and optimisers only ever see what was added up."""
    adding = {
        (name(path), node.name)
        for path in MODULES
        if name(path).startswith(("runtime/", "federation/"))
        and name(path) != "federation/channel/compression.py"  # one vector at a time
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] in {"add", "add_", "addcmul_", "lerp_"}
        if ast.unparse(call.func).startswith(("torch", "np")) or ast.unparse(call.func).endswith("_")
    }
    assert adding == {("federation/sums/aggregation.py", "_add_product"), ("federation/sums/aggregation.py", "apply_update")}
