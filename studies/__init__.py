"""Studies: one file a question, one record a finished cell.  `make study` lists them; how to write one: runner.py."""
