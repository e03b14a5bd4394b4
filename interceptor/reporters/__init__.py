"""The ways of a finished span out of the application: the ring, and HTTP."""
