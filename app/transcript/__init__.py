"""What was said in a lecture, with its times: the transcript, and the files made of it.  No I/O."""
