"""What every other folder may use: files that are there whole or not at all, progress bars."""
