"""Structured pruning: which channels belong together, which matter, and the plan that cuts everything shaped like the model."""
