"""The command line: ``graphrebase COMMAND``. stdout carries results, stderr everything else."""

from graphrebase.cli.main import app, main

__all__ = ["app", "main"]
