"""Running claimed work, and the doorbell that tells of it.  The only place that imports arq."""
