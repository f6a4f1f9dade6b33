"""One workflow a file; each reads as a table of contents. Commands never import each other."""
