"""Round plans: who takes part, where, from which model, and when. Pure."""
