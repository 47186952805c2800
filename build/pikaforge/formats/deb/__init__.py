"""Debian packages: control files, contents, repository metadata."""
