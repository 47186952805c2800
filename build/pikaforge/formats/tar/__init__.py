"""The tarball: the tree with what lies beside it, to be unpacked in /opt."""
