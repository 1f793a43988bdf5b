"""Compression and recovery methods, one file each. Methods never import each other."""
