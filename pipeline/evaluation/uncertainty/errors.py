"""What cannot be fitted on the validation images, with the reason."""


class NotFitted(Exception):  # noqa: N818 (it stops nothing: the caller logs it, and stores nothing for this part)
    """The images are too few, or say too little, to fit a part. The message is the reason."""
