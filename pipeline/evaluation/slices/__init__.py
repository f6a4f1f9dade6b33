"""Slices of a split (images of one size, file type, folder, shape or brightness), and where the model is worse."""
