"""Package formats: descriptions of packages as data, and the text that the packers read. Nothing here runs anything."""
