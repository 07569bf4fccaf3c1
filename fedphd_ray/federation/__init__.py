"""What one round of a federation is: local training, aggregation, plans, channel and ledger. No Ray in here."""
