"""The command line: `kaspan run | agent | demo | config`."""
