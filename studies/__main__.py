"""`python -m studies`: lists the studies; NAME: runs one; NAME --summary: its table; --readme: writes README.md."""

import argparse
import os
import sys

from studies import runner


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m studies", description="Runs studies; without a name, lists them.")
    parser.add_argument("name", nargs="?", default="", help="the study to run, or to go on with")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes of one thread each")
    parser.add_argument("--summary", action="store_true", help="run nothing; print what is recorded")
    parser.add_argument("--readme", action="store_true", help="run nothing; write studies/README.md from the records")
    asked = parser.parse_args(words)
    if asked.readme:
        (runner.HERE / "README.md").write_text(runner.readme(), encoding="utf-8")
        return 0
    if not asked.name:
        print(runner.listing().to_string(index=False, float_format="%.2f"))
        return 0
    try:
        runner.load(asked.name)
    except ValueError as error:
        parser.error(str(error))
    failed = 0 if asked.summary else runner.run(asked.name, asked.workers)
    print(runner.summary(asked.name))
    return failed


if __name__ == "__main__":
    sys.exit(main())
