"""Documents: uploading, reading and counting the pages of PDFs."""
