"""What surrounds every request: tokens, origins, logs, errors, the server."""
