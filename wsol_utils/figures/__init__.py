"""Tables 1 and 2, Figures 2 to 4, and what we measured ourselves."""
