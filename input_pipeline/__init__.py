"""From DICOM, PNG and JPEG files to batches of network input, and embedding records to files."""
