"""Bytes of an image -> upright RGB -> pixel values: decoding, transforms, augmentation, cache."""
