"""The Study: one TOML file, the whole truth about a run, as frozen pydantic models that refuse extra keys."""
