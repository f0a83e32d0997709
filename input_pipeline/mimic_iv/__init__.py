"""The patient's record: MIMIC-IV's tables, linked to the films of MIMIC-CXR by patient and time."""
