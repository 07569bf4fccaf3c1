"""Several runs: methods compared, grids, runs side by side."""
