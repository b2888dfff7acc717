"""What runs in the child that hears speech: numpy and the engine are imported here alone."""
