"""What is known before a run: its traffic and costs, its rounds in simulated time, a short trial."""
