"""The driver: a run from beginning to end, the cloud's main loop, and what looks at it."""
