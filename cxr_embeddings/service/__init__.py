"""The encoder as a service: what clients send, batches across requests, what they get."""
