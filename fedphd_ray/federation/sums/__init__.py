"""What senders' updates become: sums at every tier, and the models made of them."""
