"""Text to vectors, offline: the static word embeddings that the `wordllama` package ships in its wheel.

The package's own loader looks for its tokenizer elsewhere and then on the network, so its two files are opened by hand.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vicinal.model.errors import VicinalError

NAME = "wordllama-256"
DIM = 256
BATCH = 512
_WEIGHTS = "weights/l2_supercat_256.safetensors"
_TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"


class EmbedderMissingError(VicinalError):
    """The package that ships the model is not installed, or is of another version."""


class Embedder:
    """`embed` turns texts into unit vectors. About 10,000 short texts a second on one core."""

    def __init__(self) -> None:
        """Load the model; EmbedderMissingError names what to install."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        spec = find_spec("wordllama")
        if spec is None or not spec.submodule_search_locations:
            raise EmbedderMissingError(
                "the text model is not installed; pip install 'vicinal[demo]' brings it (no download at run time)"
            )
        folder = Path(spec.submodule_search_locations[0])
        for file in (_WEIGHTS, _TOKENIZER):
            if not (folder / file).is_file():
                raise EmbedderMissingError(
                    f"the installed wordllama has no {file}; pip install 'vicinal[demo]' brings the version that has"
                )
        from safetensors import safe_open
        from tokenizers import Tokenizer

        opened: Any = safe_open(folder / _WEIGHTS, framework="np")
        with opened as weights:
            table: npt.NDArray[Any] = weights.get_tensor("embedding.weight")
        self._table = table.astype(np.float32)
        self._tokenizer: Any = Tokenizer.from_file(str(folder / _TOKENIZER))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def embed(
        self, texts: Sequence[str], progress: Callable[[int, int], object] | None = None
    ) -> npt.NDArray[np.float32]:
        """Return (n, DIM) float32 unit vectors: the mean of each text's token embeddings.

        A text without a single known token gets the mean of all tokens, which is near to nothing in particular.
        """
        out = np.empty((len(texts), DIM), np.float32)
        for start in range(0, len(texts), BATCH):
            part = list(texts[start : start + BATCH])
            for i, encoding in enumerate(
                self._tokenizer.encode_batch(part, add_special_tokens=False)
            ):
                tokens = encoding.ids
                out[start + i] = (
                    self._table[tokens].mean(axis=0) if tokens else self._table.mean(axis=0)
                )
            if progress is not None:
                progress(min(start + BATCH, len(texts)), len(texts))
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
