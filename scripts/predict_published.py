"""Classify an image with a published checkpoint as its users do: transformers only, without dna-hf.

usage: predict_published.py CHECKPOINT IMAGE
"""

import sys


# as on a machine where dna-hf is not installed: importing it fails
sys.modules["dna_hf"] = None

from transformers import AutoModelForImageClassification, pipeline  # noqa: E402


checkpoint, image = sys.argv[1:]
model = AutoModelForImageClassification.from_pretrained(checkpoint, trust_remote_code=True)
print(f"loaded {type(model).__module__}.{type(model).__name__}")
classify = pipeline("image-classification", model=model, image_processor=checkpoint)
for prediction in classify(image, top_k=3):
    print(f"{100 * prediction['score']:5.1f} %  {prediction['label']}")
