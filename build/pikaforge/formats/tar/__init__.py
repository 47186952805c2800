"""Tarballs: the tree and the added files, to be unpacked in /opt."""
