"""Functions that the application names or hands records to, as spans."""
