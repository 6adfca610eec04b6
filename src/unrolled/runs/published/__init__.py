"""Checkpoints of other programs, opened as runs, and language models written as such.

A folder of Hugging Face (``config.json``, safetensors, ``tokenizer.json``), a GGUF file, or a file
of llama2.c. Settings and the shapes of all weights are compared before memory is taken, and nothing
in a folder is executed.
"""

from __future__ import annotations

from unrolled.runs.published.gguf_writing import write_gguf
from unrolled.runs.published.opening import (
    brings_tokenizer,
    is_checkpoint,
    is_published,
    open_published,
)
from unrolled.runs.published.writing import write_hugging_face

__all__ = [
    "brings_tokenizer",
    "is_checkpoint",
    "is_published",
    "open_published",
    "write_gguf",
    "write_hugging_face",
]
