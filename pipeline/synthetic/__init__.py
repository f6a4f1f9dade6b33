"""The embedded data set: invented flower species, rendered from seeds."""
