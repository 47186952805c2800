"""Load tests of a built server: the load, its figures, the comparison of several servers, and the plots."""
