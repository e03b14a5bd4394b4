"""Read kaspan settings from one YAML file and the environment."""
