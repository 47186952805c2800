"""RPM packages: their files, spec file and contents, and the metadata of yum repositories."""
