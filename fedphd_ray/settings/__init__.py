"""How configurations are read: sections, messages, YAML, overrides, classes of the user's own."""
