"""The paper's localisation on one's own pictures: networks, steps, the explorer and the command."""
