"""PostgreSQL: the models, the engine, and the job ledger."""
