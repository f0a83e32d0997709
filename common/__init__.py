"""What every package here may use: paths, whole files, untrusted input, and this machine."""
