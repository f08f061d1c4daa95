"""A chat template that begins every conversation with an evolved prompt, as training and evaluation did.

The model's own template stays as it is. Lines are put before it that change the conversation it is given: where there is no
system turn of its own, the prompt becomes one (evolution.layout=system) or stands behind the first question (user). So
whatever the template does with a system turn, it does with this one.
"""

from collections.abc import Mapping
from typing import Any

from espl_jax.evolution.render import render_genome
from espl_jax.structs import Genome

OWN_ROLES = "['system', 'developer']"  # a conversation that begins with one of these keeps it
LINE = "\n"  # transformers removes the line break behind a block, so that the template begins where it began
SYSTEM = (
    "{%- if not messages or messages[0]['role'] not in " + OWN_ROLES + " %}\n"
    "{%- set messages = [{'role': 'system', 'content': PROMPT}] + (messages or []) %}\n"
    "{%- endif %}" + LINE
)
USER = (
    "{%- if messages and messages[0]['role'] == 'user' %}\n"
    "{%- set messages = [{'role': 'user', 'content': messages[0]['content'] + PROMPT}] + messages[1:] %}\n"
    "{%- endif %}" + LINE
)
# config.evolution.layout -> (lines, what PROMPT is made of the rendered genome)
LINES = {"system": (SYSTEM, "{}"), "user": (USER, "\n\n{}")}


def with_prompt(template: str, genome: Genome, layout: str, arguments: Mapping[str, Any]) -> str:
    """The template with the genome's prompt in every conversation that has none.

    layout: config.evolution.layout. arguments: those of config.model.chat_template_arguments, which become defaults. An empty
    genome leaves conversations alone.
    """
    rendered = render_genome(genome)
    lines, form = LINES[layout]
    before = lines.replace("PROMPT", literal(form.format(rendered))) if rendered else ""
    defaults = "".join(
        f"{{%- if {name} is not defined %}}{{%- set {name} = {literal(value)} %}}{{%- endif %}}{LINE}"
        for name, value in arguments.items()
    )
    return defaults + before + template


def literal(value: Any) -> str:
    """A JSON value as Jinja writes it."""
    if isinstance(value, str):
        return '"' + "".join(_escaped(character) for character in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    return {None: "none", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else repr(value)


def _escaped(character: str) -> str:
    """Escapes that every reader of Jinja templates knows, and none where none is needed."""
    known = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    if character in known:
        return known[character]
    return character if character.isprintable() or ord(character) > 127 else f"\\x{ord(character):02x}"
