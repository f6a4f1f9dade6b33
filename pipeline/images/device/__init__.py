"""Images that stay on the training device: decoded once, cropped there a batch at a time."""
