"""Nodes on many machines: the tasks of a Dask cluster. Results go through the shared store, never through Dask."""
