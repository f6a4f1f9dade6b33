"""The plots of a run as files, drawn with matplotlib if it is installed, and sent to the trackers."""
