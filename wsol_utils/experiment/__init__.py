"""A run: its configuration, the files that notebooks hand on, and the two stages that take a network."""
