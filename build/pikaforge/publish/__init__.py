"""Publishing: repositories that are never half written, in a folder, on a server, or as a Python index.

`collect` finds what was built, `outline` decides what would change, `compose` makes the next generation of a repository
(`yum`, `apt`) as a `change`, and a site makes it visible: `directory`, or `web` (with `http`, `dav`, `weblock` and
`redo`). `publisher` leads them, `pages` tells of the root (`clients`, `page`), `records` are the files that remember.
"""
