"""Operate instances on hosts: renders the scripts and units that packages bring."""
