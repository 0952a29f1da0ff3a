"""What was measured, on which weights and by which command: records, digests, stamps, names that others may read."""
