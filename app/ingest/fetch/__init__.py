"""From a medium to a file in scratch storage."""
