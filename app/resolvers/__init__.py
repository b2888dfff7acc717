"""Queries, mutations, subscriptions: decode, call a service, map.  No SQL, no try/except."""
