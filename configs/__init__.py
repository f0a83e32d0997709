"""Values only, typed by `configs.schema`."""
