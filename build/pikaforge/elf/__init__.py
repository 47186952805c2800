"""Facts of ELF files, without judgement: what is in them, what they need, and how they get out of packages."""
