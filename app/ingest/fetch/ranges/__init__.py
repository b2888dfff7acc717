"""An MP4's sound alone, by byte ranges."""
