"""Where rounds run: the main loop of the cloud, Ray actors or one process, placement, checkpoints, progress."""
