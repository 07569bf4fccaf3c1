"""What outlives a process: the state of a run, checkpoints, seals, locks, and places to keep them."""
