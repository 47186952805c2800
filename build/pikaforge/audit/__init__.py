"""The audit: judge files by their code and linkage without running them."""
