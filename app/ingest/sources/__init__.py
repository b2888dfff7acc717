"""Where recordings come from: one module or folder a source."""
