"""graphrebase: carry a fine-tuning over to a new base release, on exported ONNX models."""

from graphrebase._version import __version__

__all__ = ["__version__"]
