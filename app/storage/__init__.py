"""The object store behind one small protocol: local disk, memory, and S3 by configuration."""
