"""Publishing: repositories that are never half written, in a folder, on a server, or as a Python index.

`collect` finds what was built. `diff` decides what would change. `generation` makes the next generation of a repository
as a `transaction`, with the indexes of its formats. A site (`sites/`) makes it visible. `publisher` leads them,
`root_files` makes the files of the root (`client_config`, `page`), and `state` has the files that remember.
"""
