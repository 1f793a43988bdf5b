"""The command line: one file per command. Command modules import nothing heavy at the top."""
