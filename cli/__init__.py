"""The command line: a module for each `kaspan` command, and what commands share."""
