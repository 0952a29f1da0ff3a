"""Images and labels: any `datasets` source, read, augmented and processed into tensors."""
