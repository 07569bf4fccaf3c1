"""`python -m fedphd_ray`."""

import sys

# Python puts the current directory first: a user's file called diffusers.py must not take the place of the package.
sys.path.append(sys.path.pop(0))

from fedphd_ray.cli import main

if __name__ == "__main__":
    main()
