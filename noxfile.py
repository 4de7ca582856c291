"""Sessions that need environments of their own: `nox -s tests`, `nox -s lint`."""

import nox

nox.options.sessions = ["tests", "lint"]


@nox.session
@nox.parametrize("numpy", ["numpy==1.26.*", "numpy"], ids=["oldest", "newest"])
def tests(session: nox.Session, numpy: str) -> None:
    """The suite with the oldest NumPy that is supported, and with the newest."""
    session.install(".[test]", numpy)
    session.run("pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting, lint, types, and the stubs of the compiled module."""
    session.install(".[dev]")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("mypy")
    session.run("stubtest", "octavo._core")
