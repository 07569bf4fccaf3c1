"""What crosses a tier: messages, links, codecs, and the ledger of what was sent."""
