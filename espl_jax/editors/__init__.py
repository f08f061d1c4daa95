"""Who writes children: one of our policies, or a server. config.evolution.editor names one.

An editor answers a list of chats (structs.Editor); make(policy, state, config, step, workdir) gives that of one step.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from espl_jax.editors import server
from espl_jax.hosts import members
from espl_jax.policy import state as states
from espl_jax.rollout import make_editor
from espl_jax.structs import Chat, Editor, Reply

Maker = Callable[[states.Policy, states.PolicyState, Any, int, Path], Editor]


def of_policy(name: str) -> Maker:
    """The maker of one of our own policies' editors: a key of policy.state.EDITORS."""

    def make(policy: states.Policy, state: states.PolicyState, config: Any, step: int, workdir: Path) -> Editor:
        return make_editor(policy, states.EDITORS[name](policy, state), config.evolution, step, config.model.max_length)

    return make


def of_server(policy: states.Policy, state: states.PolicyState, config: Any, step: int, workdir: Path) -> Editor:
    """The editor that asks a server, in the first process alone; the others get its replies."""
    return asked_once(server.make_editor(config.evolution, config.seed, step, workdir))


def asked_once(editor: Editor) -> Editor:
    """An editor that the first process asks for all; what goes wrong there is raised in every process."""

    def edit(chats: Sequence[Chat]) -> list[Reply]:
        answer: list[Reply] | str | None = None
        if members.first():
            try:
                answer = editor(chats)
            except OSError as error:  # a ServerError, or a disk that is full
                answer = str(error)
        answer = members.broadcast(answer)
        if isinstance(answer, str):
            raise server.ServerError(answer)
        return answer

    return edit


EDITORS: dict[str, Maker] = {name: of_policy(name) for name in states.EDITORS} | {"server": of_server}
