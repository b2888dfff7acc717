"""Lectures of other sites, through yt-dlp in a child without sockets."""
