"""The template of an export renders a conversation as the model's own does with the prompt put into it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from espl_jax.evolution.render import layout_messages
from espl_jax.export.template import LINES, literal, with_prompt
from espl_jax.structs import Genome
from tests.tiny import CHAT_TEMPLATE

LLAMA3 = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
INDENTED = "\n  {% for message in messages %}\n  {{ message['role'] }}: {{ message['content'] }}\n  {% endfor %}\n"
TEMPLATES = ("embedded", "qwen3", "llama3", "indented")
PIECES = ("'", '"', "\\", "\\n", "{{ x }}", "{% raw %}", "%}", "{#", "\n", "\r\n", "\t", "é", "😀", "\u2028", "\x07", "\\x41")
texts = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8))).map("".join).filter(str.strip)
turns = st.lists(st.text(max_size=8), max_size=3).map(
    lambda said: [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(["first", *said])]
)


@pytest.fixture(scope="module")
def templates(embedded_directory) -> dict[str, str]:
    own = (embedded_directory / "chat_template.jinja").read_text(encoding="utf-8")
    return {"embedded": own, "qwen3": CHAT_TEMPLATE, "llama3": LLAMA3, "indented": INDENTED}


@pytest.fixture(scope="module")
def tokenizer(tiny_qwen3):
    return AutoTokenizer.from_pretrained(tiny_qwen3)


def rendered(tokenizer, template: str, chat: list[dict], **arguments) -> str:
    return tokenizer.apply_chat_template(
        chat, chat_template=template, tokenize=False, add_generation_prompt=True, bos_token="<b>", **arguments
    )


def document(text: str) -> Genome:
    return Genome("document", document=text)


@pytest.mark.parametrize("layout", sorted(LINES))
@pytest.mark.parametrize("name", TEMPLATES)
@given(text=texts, chat=turns)
@settings(max_examples=40)
def test_a_chat_is_rendered_as_under_the_prompt(templates, tokenizer, name, layout, text, chat):
    template = templates[name]
    first, *rest = chat
    opened = layout_messages(first["content"], document(text), layout)
    expected = [{"role": message.role, "content": message.content} for message in opened] + rest
    exported = with_prompt(template, document(text), layout, {})
    assert rendered(tokenizer, exported, chat) == rendered(tokenizer, template, expected)
    assert document(text).document.strip() in rendered(tokenizer, exported, chat) or name == "llama3"


@pytest.mark.parametrize("layout", sorted(LINES))
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_system_turn_of_its_own_is_kept_and_an_empty_prompt_changes_nothing(templates, tokenizer, name, layout):
    template, own = templates[name], [{"role": "system", "content": "Mine."}, {"role": "user", "content": "x"}]
    exported = with_prompt(template, Genome("principles", ("Be kind.",)), layout, {})
    assert rendered(tokenizer, exported, own) == rendered(tokenizer, template, own)
    assert "Be kind." in rendered(tokenizer, exported, own[1:])
    assert with_prompt(template, Genome("principles"), layout, {}) == template


def test_arguments_of_the_template_become_defaults(tokenizer):
    chat = [{"role": "user", "content": "x"}]
    exported = with_prompt(CHAT_TEMPLATE, Genome("principles"), "system", {"enable_thinking": False})
    assert rendered(tokenizer, exported, chat) == rendered(tokenizer, CHAT_TEMPLATE, chat, enable_thinking=False)
    asked = rendered(tokenizer, exported, chat, enable_thinking=True)
    assert asked == rendered(tokenizer, CHAT_TEMPLATE, chat) and "<think>" not in asked


def test_literals():
    assert literal({"a": [1, 2.5, None, True], "b": 'x"\n\\'}) == '{"a": [1, 2.5, none, true], "b": "x\\"\\n\\\\"}'
