"""What runs in a child process: the look at a model, and the search for keywords."""
