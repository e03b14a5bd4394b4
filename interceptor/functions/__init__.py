"""Spans of functions: those that the settings name, `@traced` ones, and those that are given a record."""
