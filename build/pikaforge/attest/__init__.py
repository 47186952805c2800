"""Descriptions of artifacts, and proof of who made them: contents, SBOM, provenance, signatures, verification."""
