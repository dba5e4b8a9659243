"""Packaging of `mt3-transcription`, which is imported as `mt3`.

The gin files live in `gin/` and the examples in `examples/`; `mt3/gin` and
`mt3/examples` are links to them, so that a checkout and a wheel both have them in the
package.

Version floors are the versions that the test suite has run with, not guesses about
older ones. JAX with CUDA or TPU support is chosen as JAX's own documentation says, for
example `pip install "jax[cuda13]"`; nothing here depends on it.
"""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).resolve().parent

# What transcribing, scoring and reading checkpoints need. No TensorFlow, no seqio.
INSTALL = [
    "flax>=0.12.8",
    "gin-config>=0.5.0",
    "jax>=0.10.2",
    "librosa>=0.11",
    "mir_eval>=0.8.2",
    "msgpack>=1.2.4",
    "numpy>=2.4.6",
    "pillow>=13.0",
    "pretty_midi>=0.2.11",
    "safetensors>=0.8.0",
    "scipy>=1.17.1",
    "soundfile>=0.14.0",
    "soxr>=1.1.0",
    "tensorstore>=0.1.86",
    "tqdm>=4.70",
]
# Training on music rendered on the spot. The renderer itself, tinysoundfont, declares
# pyaudio, which does not build without PortAudio and is not needed, so it cannot stand
# here: `pip install --no-deps tinysoundfont` (`make` does that).
ENGINE = [
    "clu>=0.0.12",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "tensorboardX>=2.6.5",
]
# Training and evaluating on the public data sets, through seqio.
TRAIN = [
    *ENGINE,
    # Python 3.13 has no audioop any more, which pydub imports, and note-seq pydub.
    "audioop-lts>=0.2.1;python_version>='3.13'",
    "google-crc32c>=1.9.0",
    "mirdata>=1.0.0",
    "note-seq>=0.0.5",
    "pyyaml>=6.0.3",
    # seqio requires it. The code generated for its 0.2.3 needs protobuf 7.36, which
    # Beam does not allow: it keeps protobuf below 7.
    "sentencepiece>=0.2.0,<0.2.3",
    "seqio>=0.0.20",
    # TensorBoard 2.20 imports pkg_resources, which setuptools has no more since 81.
    "setuptools>=65.5.0,<81",
    # TensorFlow writes no summaries without it, and does not require it itself.
    "tensorboard>=2.20",
    "tensorflow>=2.21",
]
# Storing prepared tasks (seqio_cache_tasks), on this machine or on a cluster.
CACHE = [
    *TRAIN,
    "apache-beam>=2.71.0",
]
# Sheet music: MusicXML, PDF, and the score in reports.
SCORE = [
    "cairosvg>=2.9",
    "partitura>=1.9",
    "pypdf>=7.1",
    "verovio>=6.4",
]
# The local page and its HTTP interface.
SERVE = [
    *SCORE,
    "fastapi>=0.165",
    "python-multipart>=0.0.34",
    "uvicorn>=0.54",
]
# The pages as a site.
DOCS = [
    "docutils>=0.22.4",
    "furo>=2025.12.19",
    "myst-nb>=1.4.0",
    "myst-parser>=5.2.0",
    "sphinx>=9.0.4",
]
NOTEBOOKS = [
    "ipython>=9.0",
    "jupyterlab>=4.4",
    "matplotlib>=3.11",
]
TEST = [
    *CACHE,
    *SERVE,
    "httpx>=0.28.1",
    "hypothesis>=6.170",
    "ipykernel>=7.4",
    "matplotlib>=3.11",
    "nbclient>=0.11",
    "playwright>=1.65",
    "pytest>=9.2",
    "pytest-timeout>=2.4",
    "pytest-xdist>=3.8",
    "ruff>=0.17.6",
    "symusic>=0.6",
]
# T5X is on no package index.
T5X = ["t5x @ git+https://github.com/google-research/t5x.git"]


def version() -> str:
    """Reads the version without importing the package."""
    text = (ROOT / "mt3" / "version.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE).group(1)


def readme() -> str:
    """Returns the README."""
    return (ROOT / "README.md").read_text(encoding="utf-8")


setup(
    name="mt3-transcription",
    version=version(),
    description="Music transcription: recorded audio in, multi-instrument MIDI out",
    long_description=readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="music transcription midi audio jax flax",
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Sound/Audio :: Analysis",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    packages=find_packages(include=["mt3", "mt3.*"]),
    package_data={
        "mt3": [
            "gin/*.gin",
            "gin/ismir2022/*.gin",
            "audio/browser.html",
            "examples/*.flac",
            "examples/*.mid",
            "pretrained/*",
            "outputs/report_page/*",
            "serve/page/*",
        ]
    },
    python_requires=">=3.11",
    install_requires=INSTALL,
    extras_require={
        "engine": ENGINE,
        "train": TRAIN,
        "cache": CACHE,
        "score": SCORE,
        "serve": SERVE,
        "test": TEST,
        "notebooks": NOTEBOOKS,
        "docs": DOCS,
        "t5x": T5X,
    },
    entry_points={"console_scripts": ["mt3 = mt3.cli:main"]},
)
