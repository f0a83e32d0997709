"""Values, typed by `configs.schema`.

Beside them stands what all packages share: `paths`, `writing`, `untrusted`, `machine`.
"""
