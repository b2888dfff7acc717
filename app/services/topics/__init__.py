"""Topics: what a user learns about, and which transcripts are about it."""
