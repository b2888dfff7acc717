"""Child processes with limits, for a stranger's bytes."""
