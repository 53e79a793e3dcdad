"""The embedded sample, drawn here: two small data sets that need no download."""
