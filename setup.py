from setuptools import setup

setup(
    name="rnnprop-tf",
    version="0.1.0",
    description="RNNprop, a learned optimizer (Lv, Jiang, Li 2017), for Keras and TensorFlow",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=["rnnprop_tf"],
    package_data={"rnnprop_tf": ["weights/*/*"]},
    install_requires=[
        "tensorflow>=2.21,<2.22",
        "keras>=3.15,<3.16",
        "numpy",
        "safetensors",
    ],
    extras_require={
        # For `from_pretrained("hf://...")`. 1.0 is the first to tell a file's size beforehand.
        "hub": ["huggingface_hub>=1.0,<3"],
        # For `trainer/`, which is not installed: it runs from a checkout.
        "trainer": [
            "absl-py",
            "tensorflow-datasets",
            "importlib_resources",  # tensorflow-datasets 4.9.10 imports it undeclared.
            "tqdm",
            "matplotlib",
            "scikit-learn",
            "tensorboard",
        ],
        "dev": ["pytest>=9,<10", "pytest-xdist>=3,<4", "ruff>=0.17,<0.18", "mypy>=2,<3"],
    },
)
