"""Class activation maps (Eqs. 2 and 3), made in one forward pass and kept on the disk."""
