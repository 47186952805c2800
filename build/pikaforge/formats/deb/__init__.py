"""Debian packages: their files, control files and contents, and the metadata of apt repositories."""
