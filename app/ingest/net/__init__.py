"""Requests to hosts that strangers name: judged, bounded, read as curl reads."""
