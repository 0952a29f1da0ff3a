"""A page to play with: what a model sees in a picture, by branch, layer, head and patch."""
