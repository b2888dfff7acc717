"""arq: worker, doorbell, tasks, sweeper.  The only place that imports arq."""
