"""The version of the package, in one place that `setup.py` can read as text."""

__version__ = "0.9.0"
