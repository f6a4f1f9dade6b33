"""The embedded dataset: images of invented flower species, rendered from seeds."""
