"""The errors that a user can cause, each one sentence that names the place, what was found and
what was expected.  The command line turns them into exit codes; nothing else should be caught.
"""


class PlannerError(Exception):
    """Bad input: an unknown name, a wrong unit, an impossible degree, a corrupt file (exit 2)."""

    exit_code = 2


class Infeasible(PlannerError):
    """The input is sound, but no configuration satisfies every constraint (exit 3)."""

    exit_code = 3
