"""A server, as a tree of files for one kind of machine, and the command that runs it or puts it on a host."""
