"""A page to play with: what a model sees in an image or a video, by branch, layer and head."""
