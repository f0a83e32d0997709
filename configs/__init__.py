"""Values, typed by `configs.schema`; and what all packages share: paths, writing, untrusted, machine."""
