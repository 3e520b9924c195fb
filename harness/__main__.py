"""The command line: `python -m harness STAGE --setting value …`."""

from __future__ import annotations

import gc
import sys

from experiments import STAGES
from harness import __version__
from harness.commands.arguments import parse
from harness.commands.watching import watching
from harness.stage import BadInput, Late, one_line

_COMMANDS = {
    name: Late(f"harness.commands.{name}", name) for name in "sweep compare reproduce advise apply bench".split()
}
_RUN = Late("harness.commands.run", "run")  # of a stage, whose name is the command, and `score`


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 for bad input, 1 for any other fault, 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return _main(arguments)
    except Exception as error:
        if "--debug" in arguments:
            raise
        if isinstance(error, BadInput):
            print(f"rigsweep: {one_line(error)}", file=sys.stderr)
            return 2
        print(f"rigsweep: {type(error).__name__}: {one_line(error)} (--debug shows where)", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "rigsweep: interrupted; the run is marked KILLED; the same command goes on where it stopped (but for"
            " cache=off and cache=refresh)",
            file=sys.stderr,
        )
        return 130


def _main(arguments: list[str]) -> int:
    parser, given = parse(arguments, STAGES)
    if given.version:
        print(f"rigsweep {__version__}")
        return 0
    if given.command is None:
        parser.print_help()
        return 0
    with watching():
        code: int = _COMMANDS.get(given.command, _RUN)(given, STAGES)
    return code


if __name__ == "__main__":
    # Imports allocate half a million objects of which none is garbage: looking for it took a fifth of a short command.
    gc.set_threshold(10_000)
    code = main()
    gc.freeze()  # else the interpreter looks through all of them once more before it ends
    sys.exit(code)
