"""PostgreSQL, Redis and a Panopto simulator for a bare machine."""
