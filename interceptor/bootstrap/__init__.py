"""From `import kafka` to the patched classes."""
