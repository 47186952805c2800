"""The smoke stage: run the built server on the target's CPU and check what it answers."""
