"""For every other folder: files that are there whole or not at all, checks, progress bars, what imports what."""
