"""Load tests of a built server: the load, what it came to, the comparison of several servers, and the pictures."""
