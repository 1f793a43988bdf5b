"""The guided road: from a model to a package and a report, in four stages, a file after each."""
