"""The source stage: fetch, patch and normalise the source tree."""
