"""What every shape builds on: scalars, pages, errors, limits."""
