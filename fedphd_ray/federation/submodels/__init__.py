"""Clients that train a part of the network: which widths there are, who has which, and where a share lies in the whole."""
