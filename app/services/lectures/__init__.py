"""Lectures: asking for one, downloading it, reading it."""
