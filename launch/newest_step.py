"""Prints the step of the newest checkpoint below a work directory, -1 when there is none: `python launch/newest_step.py DIR`.

DIR is a path or a gs:// address. supervise.sh asks it whether a run that is started again and again gets anywhere.
"""

import sys

from etils import epath


def main(workdir: str) -> int:
    folder = epath.Path(workdir) / "checkpoints"
    steps = [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.exists() else []
    print(max(steps, default=-1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
