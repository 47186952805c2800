"""The audit: judge programs and libraries by their code and linkage, without running them."""
