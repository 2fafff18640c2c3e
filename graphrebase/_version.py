"""The version, read by the build and by provenance entries."""

__version__ = "0.1.0"
