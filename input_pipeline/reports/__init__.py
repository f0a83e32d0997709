"""Radiology reports to labels: abnormal, normal or unknown."""
