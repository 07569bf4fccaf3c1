"""What works: client hosts, edge servers, the protocol that the cloud drives them by, and their in-process twin."""
