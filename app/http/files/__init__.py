"""The bytes of files, with ranges and validators."""
