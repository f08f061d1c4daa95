"""Command line: python -m espl_jax.export --workdir=DIR --out=OUT [--prompt=best] [--form=merged|adapter] [--step=N].

Writes what a run has learned as a directory that transformers (merged) or PEFT (adapter) loads: weights, a tokenizer whose chat
template has the evolved prompt, generation settings and a model card. It is read back and compared with our own policy before
the command says that it is done. Nothing in DIR is changed. More in docs/export.md.
"""

import sys

from absl import app, flags, logging

from espl_jax.export import write


def main(argv: list[str]) -> None:
    """Exports; what a user can mend ends in one sentence."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}; what is exported is said by flags")
    logging.set_verbosity(logging.ERROR)
    values = flags.FLAGS
    step = None if values.step < 0 else values.step
    try:
        findings = write.export(values.workdir, values.out, values.prompt, values.form, step, values.dtype)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    learned = "" if findings.learned is None else f"; what was learned: up to {findings.learned:.2g}"
    sys.stdout.write(
        f"{values.out}: {findings.chats} chats rendered alike; log-probabilities within {findings.difference:.2g} of our "
        f"policy's ({findings.tolerance:g} let pass{learned})\n"
    )


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Work directory of the run.", required=True)
    flags.DEFINE_string("out", None, "Directory to write; it must not be there.", required=True)
    flags.DEFINE_string("prompt", "best", "best (highest mu), newest, none or the id of a prompt.")
    flags.DEFINE_enum("form", "merged", list(write.FORMS), "Whole weights for transformers, or an adapter for PEFT.")
    flags.DEFINE_integer("step", -1, "Step of the checkpoint; -1: the newest.")
    flags.DEFINE_enum("dtype", "", ["", *write.DTYPES], "Of merged weights; '': that of the model the run began with.")
    app.run(main)
