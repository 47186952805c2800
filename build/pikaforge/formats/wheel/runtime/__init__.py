"""A product, as a tree of files for one kind of machine, and its command, which runs a server or puts it on a host."""
