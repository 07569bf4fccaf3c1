"""Simulated devices and links: how fast, how far, how large and how often there. Nothing here waits."""
