"""From a link to an audio file.  Writes no rows: services do."""
