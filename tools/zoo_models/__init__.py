"""Tiny random transformers: modules, exporters and their hand-written structure."""
