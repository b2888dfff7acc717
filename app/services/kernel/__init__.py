"""What every feature builds on: units of work, pages of lists, quotas, live status."""
