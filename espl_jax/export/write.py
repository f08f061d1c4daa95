"""What a run has learned as a directory that other programs load: transformers (merged) or PEFT (adapter).

OUT appears whole or not at all: everything is written beside it under a temporary name, read back and compared with our own
policy (check.py), and then renamed. Weights are merged on the host, tensor by tensor, in float32, and then cast.
"""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from espl_jax import finished
from espl_jax.evolution.guards import control_marks
from espl_jax.evolution.render import render_genome
from espl_jax.export import card, check
from espl_jax.export.template import with_prompt
from espl_jax.finished import Finished
from espl_jax.policy import adapter_files, weights
from espl_jax.policy.chat import Tokenizer
from espl_jax.policy.hf_config import read_json
from espl_jax.policy.model import Decoder, ModelSpec, abstract_params
from espl_jax.policy.state import open_model
from espl_jax.structs import Prompt

TEMPLATE, TOKENIZER, GENERATION = "chat_template.jinja", "tokenizer_config.json", "generation_config.json"
DTYPES = ("float32", "bfloat16", "float16")


class ExportError(ValueError):
    """What was asked for cannot be exported; the message says in one sentence why and what to do."""


@dataclass(frozen=True)
class Source:
    """What is exported, and the model that it belongs to. dtype: of the weights in the file."""

    run: Finished
    prompt: Prompt
    directory: Path
    spec: ModelSpec
    tokenizer: Tokenizer
    form: str
    dtype: str


def export(
    workdir: str | Path, out: str | Path, prompt: str = "best", form: str = "merged", step: int | None = None, dtype: str = ""
) -> check.Findings:
    """Writes the directory `out`, and returns how near it is to our own policy.

    prompt: best, newest, none or an id. form: a key of FORMS. step: of the checkpoint; None: the newest. dtype: one of DTYPES;
    "": that of the model the run began with. Raises ExportError, FinishedError, CheckError, FileNotFoundError or
    FileExistsError in one sentence.
    """
    out = Path(out).absolute()
    if out.exists():
        raise FileExistsError(f"--out is {str(out)!r}, which is there already; give another name, or move it away")
    source = open_source(workdir, prompt, form, step, dtype)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".exporting-", dir=out.parent) as making:
        new = Path(making) / "new"
        FORMS[form](source, new)
        write_tokenizer(source, new)
        write_generation(source, new)
        findings = check.compare(source, new)
        (new / "README.md").write_text(card.text(source, findings), encoding="utf-8")
        if out.exists():
            raise FileExistsError(f"--out is {str(out)!r}, which somebody else has made meanwhile; give another name")
        os.rename(new, out)
    return findings


def open_source(workdir: str | Path, prompt: str, form: str, step: int | None, dtype: str) -> Source:
    """What can be refused is refused here, before a weight is read."""
    run = finished.read(workdir, step)
    chosen = finished.choose(run, prompt)
    if found := control_marks(render_genome(chosen.genome)):
        raise ExportError(
            f"prompt {chosen.id} {found}, which other programs would take for the template's own; give another --prompt"
        )
    if form == "adapter" and not run.config.rl.lora_rank:
        raise ExportError("--form is 'adapter', but this run trained all weights (rl.lora_rank=0); use --form=merged")
    directory, spec, tokenizer = open_model(run.config)
    return Source(run, chosen, directory, spec, tokenizer, form, dtype or saved_dtype(directory))


def saved_dtype(directory: Path) -> str:
    """The dtype that a model's config.json states; float32 where it states none, or one that we do not write."""
    config = read_json(directory / "config.json")
    stated = [config[name] for name in ("dtype", "torch_dtype") if name in config]
    return stated[0] if stated and stated[0] in DTYPES else "float32"


def learned_adapter(source: Source) -> adapter_files.Adapter:
    """What turns the model's files into our policy: the trained adapter, on top of model.adapter if there is one."""
    config = source.run.config
    base = adapter_files.base_name(config.model.path)
    learned = adapter_files.from_tree(source.run.trainable, config.rl.lora_alpha, base)
    earlier = adapter_files.load(config.model, abstract_params(Decoder(source.spec))[0])
    return learned if earlier is None else adapter_files.combined(earlier, learned)


@dataclass(frozen=True)
class Lazy:
    """A tensor of the model's files that is read, and changed, when an array is made of it. entry: as adapter_files.Changed."""

    entry: Any
    transposed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        shape = tuple(self.entry.get_shape())
        return shape[::-1] if self.transposed else shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = np.asarray(self.entry[tuple(slice(0, size) for size in self.entry.get_shape())], dtype)
        return whole.T if self.transposed else whole


def write_merged(source: Source, new: Path) -> None:
    """A whole model in the Hugging Face format."""
    dtype = np.dtype(source.dtype)
    if not source.run.config.rl.lora_rank:
        weights.save(new, source.spec, source.run.trainable, source.directory, dtype)
        return
    adapter = learned_adapter(source)
    with weights.open_files(source.directory) as files:

        def lazy(path: tuple[str, ...]) -> Lazy:
            name, transposed = weights.hf_name("/".join(path))
            return Lazy(adapter.on(name, files[name].get_slice(name)), transposed)

        shapes = traverse_util.flatten_dict(abstract_params(Decoder(source.spec))[0])
        params = traverse_util.unflatten_dict({path: lazy(path) for path in shapes})
        weights.save(new, source.spec, params, source.directory, dtype)


def write_adapter(source: Source, new: Path) -> None:
    """PEFT's two files and the tokenizer."""
    adapter_files.save(new, learned_adapter(source))
    for name in weights.TOKENIZER_FILES:
        if (source.directory / name).exists():
            shutil.copyfile(source.directory / name, new / name)


# --form -> (what, where) -> writes weights and copies the tokenizer's files
FORMS = {"merged": write_merged, "adapter": write_adapter}


def write_tokenizer(source: Source, new: Path) -> None:
    """Puts the prompt into the chat template; older programs look for it in tokenizer_config.json."""
    config = source.run.config
    arguments = json.loads(config.model.chat_template_arguments)
    template = with_prompt(source.tokenizer.template, source.prompt.genome, config.evolution.layout, arguments)
    (new / TEMPLATE).write_text(template, encoding="utf-8")
    (new / "chat_template.json").unlink(missing_ok=True)
    _rewrite(new / TOKENIZER, chat_template=template)


def write_generation(source: Source, new: Path) -> None:
    """How evaluation samples, as transformers says it; its own default would be to keep the 50 likeliest tokens."""
    evaluation, tokenizer = source.run.config.evaluation, source.tokenizer
    fields = {"eos_token_id": list(tokenizer.stop_ids), "pad_token_id": tokenizer.pad_id, "do_sample": False}
    fields["max_new_tokens"] = evaluation.max_new_tokens
    if evaluation.temperature > 0:
        fields |= {"do_sample": True, "temperature": evaluation.temperature, "top_p": evaluation.top_p, "top_k": 0}
    _rewrite(new / GENERATION, **fields)


def _rewrite(path: Path, **fields: Any) -> None:
    before = read_json(path) if path.exists() else {}
    path.write_text(json.dumps(before | fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
