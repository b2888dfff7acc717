"""Models behind protocols, each at work in a child process: what hears speech."""
