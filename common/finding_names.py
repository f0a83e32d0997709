"""Names of findings that several tables share, and the values of their columns."""

NO_FINDING = "No Finding"
# What a column of one finding holds: positive, negative, uncertain, not mentioned.
VALUES: dict[str, int | None] = {
    "1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1, "": None,
}  # fmt: skip
