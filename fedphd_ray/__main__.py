"""`python -m fedphd_ray` is the console script `fedphd`."""

from fedphd_ray.cli import main

main()
