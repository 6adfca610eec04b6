"""The command line: verbs, one file each. They parse, call the Python API, and print."""
