"""A Hugging Face directory with random bfloat16 weights, to measure a shape whose weights are not at hand.

  python -m benchmarks.random_model --shape=qwen2.5-1.5b --directory=DIR

The tokenizer is that of the embedded model; speed does not depend on it. The other benchmarks then take
`--model=DIR --dtype=bfloat16 --device=gpu`.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import ml_dtypes
import numpy as np

from benchmarks.shapes import SHAPES
from espl_jax.policy import weights
from espl_jax.policy.embedded import embedded_model_dir
from espl_jax.policy.model import Decoder, ModelSpec, abstract_params

WEIGHT_SCALE = 0.02  # standard deviation of every matrix


def write(spec: ModelSpec, directory: Path, tokenizer_directory: Path, seed: int) -> Path:
    """Writes the directory and returns it; tensors are drawn on all cores, and all of them are held until they are saved."""
    shapes, _ = abstract_params(Decoder(spec))

    def draw(number, path, leaf):
        if path[-1].key == "scale":
            return np.ones(leaf.shape, ml_dtypes.bfloat16)
        rng = np.random.default_rng((seed, number))
        return (WEIGHT_SCALE * rng.standard_normal(leaf.shape, np.float32)).astype(ml_dtypes.bfloat16)

    paths, structure = jax.tree_util.tree_flatten_with_path(shapes)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        drawn = pool.map(lambda numbered: draw(numbered[0], *numbered[1]), enumerate(paths))
        params = jax.tree.unflatten(structure, list(drawn))
    weights.save(directory, spec, params, tokenizer_directory, ml_dtypes.bfloat16)
    return directory


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", required=True, choices=sorted(SHAPES))
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args(argv)
    print(write(SHAPES[flags.shape], flags.directory, embedded_model_dir(), flags.seed))


if __name__ == "__main__":
    main(sys.argv[1:])
