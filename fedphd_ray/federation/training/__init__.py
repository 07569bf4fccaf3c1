"""One client's round."""
