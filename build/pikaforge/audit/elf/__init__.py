"""Facts of ELF files: headers, symbols, debug information, frames. No judgement."""
