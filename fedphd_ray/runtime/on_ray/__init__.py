"""Ray: sessions, actors, and the driver of a round over them. The only folder that imports ray."""
