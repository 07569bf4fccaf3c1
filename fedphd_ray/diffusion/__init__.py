"""Diffusion models: network, noise process, sampler, quality, export. Knows nothing of federation."""
