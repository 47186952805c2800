"""Decode machine code: find the features that a file's instructions need, and the functions that hold them."""
