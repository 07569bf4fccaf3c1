"""Files that stand in for packages, and what they break. Imports almost nothing: this must work where imports do not."""

import sys
from importlib import import_module
from importlib.machinery import PathFinder


def in_the_place_of_packages() -> list[str]:
    """A sentence for every imported module that is called like a package, but lies in a folder that holds no packages."""
    folders = [path for path in sys.path if path.rstrip("/").endswith(("site-packages", "dist-packages"))]
    homes = (*folders, f"{sys.base_prefix}/", f"{sys.prefix}/")
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        installed = name in sys.stdlib_module_names or PathFinder.find_spec(name, folders) is not None
        if installed and file and not file.startswith(homes):
            found.append(f"{file} takes the place of the package {name!r}")
    return found


def trouble_with(module: str) -> str:
    """What is wrong when a module is imported here, in a line; empty where nothing is."""
    try:
        import_module(module)
    except Exception as error:
        return "; ".join([f"{type(error).__name__}: {error}", *in_the_place_of_packages()])
    return ""
