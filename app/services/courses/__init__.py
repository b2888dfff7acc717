"""Courses: the catalogue, and who may see which."""
