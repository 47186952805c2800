"""The seam of probes: how a server or a command is asked, and what must come. See `probe.ProbeKind`."""
