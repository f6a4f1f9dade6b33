"""Explanations of single images: relevance maps, how far they can be trusted, and a walk through the network."""
