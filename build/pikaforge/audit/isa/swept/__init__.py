"""Decode many instructions at once, with numpy: lengths by tables, and what iced says of each kind of instruction."""
