"""The run directory: what is written of a run, and whose it is."""
