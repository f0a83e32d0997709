"""A stand-in of MIMIC-CXR: drawn films in the folders and tables of the real one; no patient's."""
