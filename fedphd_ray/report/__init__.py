"""What a person reads: terminal views of plans, progress and results."""
