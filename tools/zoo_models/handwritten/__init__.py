"""Torch modules that are written here because no configuration gives them."""
