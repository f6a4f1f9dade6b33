"""Image files -> upright RGB images -> pixel tensors: decoding, transforms, augmentation, disk cache."""
