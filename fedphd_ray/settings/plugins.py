"""Classes of the user's own in configurations: `name: my_package.my_module:MyStrategy`, or the name of an entry point.

A dotted path is imported where the user hands over the configuration. A configuration that lies in a run directory may be
somebody else's: what it names is imported only if the user says so (`trusting`). What is installed as an entry point of the group
`fedphd_ray.plugins` was installed on purpose, and is known by its name everywhere.
"""

import importlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import GetCoreSchemaHandler, ValidationError, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from fedphd_ray.errors import ConfigError
from fedphd_ray.settings.sections import Section
from fedphd_ray.settings.validation import explained

GROUP = "fedphd_ray.plugins"
_NAMING = ("name", "codec", "criterion")  # keys whose value may be a path; a codec or a criterion may be its name alone
TRUSTED = "trusted"  # in the context of a validation: the paths that may be imported; without it all may be


def trusting(paths: Collection[str] | None) -> dict[str, Collection[str]]:
    """The context of a validation in which only these dotted paths are imported; all of them for None."""
    return {} if paths is None else {TRUSTED: paths}


@dataclass(frozen=True)
class OrOwn:
    """Beside an annotated union of sections: or a section of the user's own class, which is named by its path.

    Attributes:
        base: what the class must be derived from.
        tag: key that names it.
    """

    base: type[Section]
    tag: str = "name"

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The union's own schema, with a way around it."""
        listed = handler(source)
        writing = core_schema.wrap_serializer_function_ser_schema(self._written, info_arg=True, schema=listed)
        return core_schema.with_info_wrap_validator_function(self._read, listed, serialization=writing)

    def _read(self, value: object, handler: Callable[[object], object], info: ValidationInfo) -> object:
        if isinstance(value, self.base) and not _is_ours(type(value)):
            return value
        path = value.get(self.tag) if isinstance(value, Mapping) else None
        if not isinstance(path, str) or not (":" in path or path in _installed()):
            return handler(value)
        where, trusted = f"{info.field_name}.{self.tag}", (info.context or {}).get(TRUSTED)
        found = imported(path, where, trusted)
        if not (isinstance(found, type) and issubclass(found, self.base)):
            raise ConfigError(where, expected=f"a class derived from {self.base.__module__}:{self.base.__name__}", found=path)
        assert isinstance(value, Mapping)
        told = found.model_fields.get(self.tag)
        settings = {key: own for key, own in value.items() if key != self.tag or (told is not None and told.annotation is str)}
        try:
            return found.model_validate_json(json.dumps(settings), strict=True)
        except ValidationError as error:
            problem = explained(error, found)
            expected = problem.expected.replace("the top level", str(info.field_name))
            raise ConfigError(
                f"{info.field_name}.{problem.where}", expected=expected, found=problem.found, remedy=problem.remedy
            ) from None

    def _written(self, value: object, handler: Callable[[object], object], info: Any) -> object:
        if not isinstance(value, Section) or _is_ours(type(value)):
            return handler(value)
        return value.model_dump(mode=info.mode) | {self.tag: path_of(type(value))}


def imported(path: str, where: str, trusted: Collection[str] | None = None) -> object:
    """What a path `package.module:Name` or an entry point stands for.

    Raises:
        ConfigError: it cannot be imported, or must not be.
    """
    own = _installed().get(path)
    if own is not None:
        return own.load()
    if trusted is not None and path not in trusted:
        raise ConfigError(
            where,
            expected="code that you trust: this configuration lies in a run directory, and names a class to import",
            found=path,
            remedy=f"if it is yours, say so: --trust {path}, in Python trust=['{path}']",
        )
    module, _, name = path.partition(":")
    try:
        found: object = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            where,
            expected="package.module:Name of something that can be imported",
            found=f"{path}: {error}",
            remedy="install its package, or put its folder into PYTHONPATH",
        ) from None
    return found


def named_in(tree: object) -> set[str]:
    """The dotted paths that a configuration tree names."""
    if isinstance(tree, Mapping):
        own = {value for key, value in tree.items() if key in _NAMING and isinstance(value, str) and ":" in value}
        return own.union(*map(named_in, tree.values()))
    return set().union(*map(named_in, tree)) if isinstance(tree, list | tuple) else set()


def path_of(own: type[Section]) -> str:
    """How a configuration names a class."""
    path = f"{own.__module__}:{own.__qualname__}"
    return next((name for name, entry in _installed().items() if entry.value == path), path)


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _is_ours(own: type) -> bool:
    return own.__module__.partition(".")[0] == "fedphd_ray"
