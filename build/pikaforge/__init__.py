"""pikaforge: a build matrix for a server product over hardware models and OS images."""

__version__ = "0.1.0"
