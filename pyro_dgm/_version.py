"""The version of the package, in one place for the metadata and for saved files."""

__version__ = "0.1.0"
