"""`python -m fedphd_ray`, and the command `fedphd`: nothing that a user's file could stand in for is imported before `main`."""

import sys

if __name__ == "__main__":
    # Python puts the current directory first: a user's file called diffusers.py must not take the place of the package.
    sys.path.append(sys.path.pop(0))

from fedphd_ray.system.imports import in_the_place_of_packages


def main() -> None:
    """Runs a command; where an import fails because of a file with the name of a package, that file is named."""
    try:
        from fedphd_ray.cli import main as command_line  # noqa: PLC0415

        command_line()
    except Exception as error:
        files = "; ".join(in_the_place_of_packages())
        if not files:
            raise
        sys.stderr.write(f"error: {files}: rename it, or take its folder out of PYTHONPATH ({type(error).__name__}: {error})\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
