"""Facts of ELF files: headers, symbols, debug information, unwind tables. No judgement."""
