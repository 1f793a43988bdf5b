"""Model folders as files: found, read, described, written. No module is built here."""
