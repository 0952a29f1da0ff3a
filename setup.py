"""Packaging of dna-hf."""

import re
from pathlib import Path

from setuptools import find_packages, setup


here = Path(__file__).parent
version = re.search(r'__version__ = "(.+?)"', (here / "src/dna_hf/__init__.py").read_text(encoding="utf-8")).group(1)

extras = {
    "demo": ["gradio>=6"],
    "dev": [
        "gguf",
        "gradio>=6",
        "matplotlib>=3.9",
        "mypy>=1.15",
        "parameterized",
        "peft>=0.17",
        "playwright>=1.49",
        "pytest>=8",
        "pytest-xdist>=3.6",
        "ruff>=0.9",
        "setuptools>=77",
        "tensorboard",
        "types-PyYAML",
        "wheel",
    ],
    "figures": ["matplotlib>=3.9"],
    "llm": ["peft>=0.17"],
    "recipes": ["timm>=1.0"],
    "tracking": ["tensorboard", "trackio"],
}

setup(
    name="dna-hf",
    version=version,
    description="Denoising Attention (DnA) vision transformers for the Hugging Face ecosystem",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0 AND MIT",
    license_files=["LICENSE", "src/dna_hf/data/fashion_mnist_mini/COPYRIGHT"],
    keywords=["attention", "vision transformer", "denoising attention", "transformers"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    # recipes and documents stay at the top of a clone and travel inside the package, see dna_hf/recipes.py
    package_dir={"": "src", "dna_hf.configs": "configs", "dna_hf.docs": "docs"},
    packages=[*find_packages("src"), "dna_hf.configs", "dna_hf.configs.accelerate", "dna_hf.docs"],
    package_data={
        "dna_hf": ["py.typed"],
        "dna_hf.analysis": ["report_template.html"],
        "dna_hf.configs": ["*.yaml"],
        "dna_hf.configs.accelerate": ["*.yaml"],
        "dna_hf.data": ["fashion_mnist_mini/*", "summary_template.html"],
        "dna_hf.docs": ["**/*.md"],
        "dna_hf.hub": ["model_card_template.md"],
    },
    python_requires=">=3.10",
    install_requires=[
        "accelerate>=1.15",
        "av>=14",
        "datasets>=5.0",
        "evaluate>=0.4.6",
        "huggingface_hub>=1.5",
        "jinja2>=3.1",
        "numpy>=1.26",
        "pillow>=10.4",
        "pyarrow>=21",
        "pyyaml>=6",
        "safetensors>=0.6",
        "torch>=2.6",
        "tqdm>=4.66",
        "transformers>=5.17,<6",
    ],
    extras_require=extras,
    entry_points={
        "console_scripts": ["dna-hf=dna_hf.cli:main"],
        "lmms_eval.models": ["dna_video_llama3=dna_hf.evaluation.lmms_eval_model:manifest"],
    },
)
