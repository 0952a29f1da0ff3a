"""What the branches of an attention do: the statistics of the paper."""
