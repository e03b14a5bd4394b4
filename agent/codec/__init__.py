"""Codecs: read and write lists of spans in JSON and proto3."""
