"""A contestant without a model: `python fake_contestant.py`."""

import os

from benchmarks import protocol


class Fake:
    """Answers, fails or ends as it is told."""

    def sample(self, seconds: float) -> dict:
        print("what a library prints is not an answer")
        return {"seconds": seconds, "useful_tokens": 3}

    def fail(self) -> None:
        raise ValueError("no such weights")

    def end(self) -> None:
        os._exit(3)


if __name__ == "__main__":
    protocol.serve(Fake())
