"""Reading and writing sound, in the media child alone."""
