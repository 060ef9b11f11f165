"""The generated parts of the documentation: the result table and the list of intended differences."""


def write(args) -> int:
    """Writes the generated sections of docs/conformance.md and docs/differences.md."""
    return 0
