"""Who is asking: session tokens in, a `Viewer` out."""
