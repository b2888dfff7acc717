"""What is found as one: sentences and windows of a transcript, pieces of a page.  No I/O."""
