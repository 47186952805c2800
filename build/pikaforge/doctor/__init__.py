"""What a machine lacks for this project: facts are gathered, then judged by a list of checks."""
