"""Ways out: each sender takes spans from the spool at its own pace, with its own cursor."""
