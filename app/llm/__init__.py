"""A language model, where the operator has named a server for one.  Nothing else waits for it."""
