"""Decode many instructions at once, with numpy: lengths by tables, and what iced says of each kind of instruction."""

QUICK_BYTES = 2 << 20
"""Bytes of code from which on numpy is used: it takes 0.1 s to start, in which iced decodes a megabyte."""
