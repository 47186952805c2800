"""Which instructions a file holds, and which of them a target may run."""
