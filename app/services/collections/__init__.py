"""Collections: lists of lectures and documents that are the viewer's own."""
