"""Ways in: whoever takes spans puts them into the spool and acknowledges them only then."""
