"""Vision backbones for which transformers has no image classifier: a linear head on their pooled features."""
