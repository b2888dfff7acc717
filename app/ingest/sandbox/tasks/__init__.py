"""What runs in the child: one module a task, with a function `run`."""
