"""MIMIC-CXR's folders and tables, and which films of an input are kept."""
