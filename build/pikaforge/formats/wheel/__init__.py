"""Python wheels that hold the server, and the command in them."""
