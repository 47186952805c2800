"""Python wheels that hold the server."""
