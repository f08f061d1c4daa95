"""What a server answered, kept: workdir/replies/000012/<key>.json, one file a reply, written before the reply is used.

The key is a hash of all that decides what is asked (seed, step, chat, content, model, parameters). A resumed run finds what
the run before it was told, however the server would answer now; deleting a file has its chat asked anew.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from absl import logging

from espl_jax.records import json_files


@dataclass(frozen=True)
class Written:
    """A server's reply. ended: its finish_reason. model: as it names itself. tries, seconds: what it took, for people."""

    text: str
    ended: str
    prompt_tokens: int
    generated_tokens: int
    model: str
    tries: int
    seconds: float


class Replies:
    """The replies of one step. Many threads use it, each for chats of its own."""

    def __init__(self, workdir: Path, step: int):
        self._folder = Path(workdir) / "replies" / f"{step:06d}"

    def find(self, identity: Mapping[str, Any]) -> Written | None:
        """The reply that was recorded for this, or None; a damaged file is none."""
        path = self._path(identity)
        if not path.exists():
            return None
        try:
            return Written(**json.loads(path.read_text(encoding="utf-8"))["reply"])
        except (ValueError, TypeError, KeyError) as error:
            logging.warning("%s cannot be read (%s); its chat is asked again", path, error)
            return None

    def record(self, identity: Mapping[str, Any], written: Written) -> None:
        """Has the reply on disk when it returns."""
        self._folder.mkdir(parents=True, exist_ok=True)
        row = dict(identity) | {"reply": asdict(written)}
        json_files.write_atomic(self._path(identity), json_files.dumps(row, indent=2) + "\n")

    def _path(self, identity: Mapping[str, Any]) -> Path:
        known = json.dumps(identity, sort_keys=True, ensure_ascii=True)
        return self._folder / f"{hashlib.sha256(known.encode()).hexdigest()[:24]}.json"
