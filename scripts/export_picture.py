"""Write the first image of a test split to a file. usage: export_picture.py [--dataset NAME] OUT.png"""

import argparse

from dna_hf.data.arguments import ImageDataArguments
from dna_hf.data.image_reading import read_image
from dna_hf.data.sources import load_split


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="fashion-mnist-mini", help="as of dna-hf train (default: %(default)s)")
parser.add_argument("--split", default="test", help="split of the data set (default: %(default)s)")
parser.add_argument("output", metavar="OUT.png", help="file to write")
arguments = parser.parse_args()

images = load_split(ImageDataArguments(dataset=arguments.dataset), arguments.split)
row = images.rows[0]
read_image(row[images.image_column], "in row 0").save(arguments.output)
print(f"{arguments.output}: {images.class_names[row[images.label_column]]}")
