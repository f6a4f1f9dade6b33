"""Names of data sets to upright RGB images and aligned labels."""
