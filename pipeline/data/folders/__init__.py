"""Class folders: which folders are splits and classes, and the images in them."""
