"""One HTTP server, for the receivers and for monitoring."""
