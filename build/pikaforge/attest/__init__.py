"""What is said of an artifact beside it, and the proof of who made it: contents, SBOM, provenance, signatures."""
