"""Decode machine code: which instructions a file holds, and where."""
