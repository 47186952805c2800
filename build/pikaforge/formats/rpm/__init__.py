"""RPM packages: spec file, contents, the file format, repository metadata."""
