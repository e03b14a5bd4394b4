"""The demo: applications that know nothing of kaspan, and what starts them traced for `kaspan demo`."""
