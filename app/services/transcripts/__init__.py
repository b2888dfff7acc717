"""Lectures' words: read, asked for, and written down."""
