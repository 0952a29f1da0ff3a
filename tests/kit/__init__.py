"""What tests of several rooms share: tiny models and checkpoints, data, videos, a Hub, ways to start the programs."""
