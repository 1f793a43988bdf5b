"""An artifact as a package for an engine: made, proved, served, checked and load-tested."""
