"""`python -m fedphd_ray`, and the command `fedphd`: nothing that a user's file could stand in for is imported before `main`."""

import sys
from importlib.machinery import PathFinder

if __name__ == "__main__":
    # Python puts the current directory first: a user's file called diffusers.py must not take the place of the package.
    sys.path.append(sys.path.pop(0))


def main() -> None:
    """Runs a command; where an import fails because of a file with the name of a package, that file is named."""
    try:
        from fedphd_ray.cli import main as command_line  # noqa: PLC0415

        command_line()
    except (ImportError, AttributeError) as error:
        files = _in_the_place_of_packages()
        if not files:
            raise
        told = "; ".join(f"{path} takes the place of the package {name!r}" for name, path in files)
        sys.stderr.write(f"error: {told}: rename it, or take its folder out of PYTHONPATH ({error})\n")
        sys.exit(2)


def _in_the_place_of_packages() -> list[tuple[str, str]]:
    """Name and file of the imported modules that are called like a package, but lie in a folder that holds no packages."""
    folders = [path for path in sys.path if path.rstrip("/").endswith(("site-packages", "dist-packages"))]
    homes = (*folders, f"{sys.base_prefix}/", f"{sys.prefix}/")
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        installed = name in sys.stdlib_module_names or PathFinder.find_spec(name, folders) is not None
        if installed and file and not file.startswith(homes):
            found.append((name, file))
    return found


if __name__ == "__main__":
    main()
