"""The command line: one file for each group of commands, options made from pydantic models."""

# Exit codes; forcelaw.cli.main describes them.
FAILED = 1
CANNOT_CARRY = 3
DAMAGED = 4
UNFINISHED = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, try again
INTERRUPTED = 130
