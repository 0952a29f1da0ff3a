"""What looking at one image of 224 pixels costs after the model is loaded, for a process of its own.

    python tests/analysis/measure_maps.py forward|maps|visualize FOLDER

`forward` is a forward pass with eager attention, whose maps exist for one layer at a time; `maps` forms the class
token's maps of all layers and heads; `visualize` looks at an image and writes the figure of the command to FOLDER.
Prints seconds, seconds of the processor, and the peak of memory.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from dna_hf import DnAViTConfig, DnAViTForImageClassification


def main(what, folder):
    torch.set_num_threads(2)
    torch.manual_seed(0)
    model = DnAViTForImageClassification(DnAViTConfig(num_labels=1000)).eval()
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if what == "maps":
        from dna_hf.analysis import visual_maps
    elif what == "visualize":
        # as the command does before it loads a model
        from dna_hf.analysis.sight import VisualizeSettings
        from dna_hf.analysis.visualize import visualize_files
        from dna_hf.kinds import IMAGE, Loaded
    start, work = time.perf_counter(), time.process_time()
    if what == "forward":
        model.set_attn_implementation("eager")
        with torch.no_grad():
            model(torch.randn(1, 3, 224, 224))
    elif what == "maps":
        visual_maps(model, {"pixel_values": torch.randn(1, 3, 224, 224)})
    else:
        picture = Path(folder, "noise.png")
        Image.effect_noise((300, 260), 60).convert("RGB").save(picture)
        classifier = Loaded("model", model, ViTImageProcessorPil(), IMAGE)
        visualize_files([classifier], [picture], Path(folder), VisualizeSettings())
    figures = {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - work}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps(figures | {"loaded_mib": loaded / 1024, "peak_mib": peak / 1024}))


main(*sys.argv[1:])
