"""fedphd_ray: hierarchical federated training of diffusion models with structured pruning (FedPhD, arXiv 2507.06449), on Ray."""

__version__ = "0.1.0"
