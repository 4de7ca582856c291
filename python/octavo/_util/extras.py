"""Optional packages: imported where they are needed, named with their extra where they are missing."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["import_extra", "install_command"]


def import_extra(module: str, *, purpose: str, extra: str) -> Any:
    """The module of an optional package.

    Args:
        module: its full name, such as "matplotlib.figure".
        purpose: what needs it, as the message begins: "plot", "progress=True", "octavo demo".
        extra: the extra of octavo that brings the package.

    Raises:
        ImportError: the package is not installed; the message has the command that installs it. Errors inside an
            installed package pass through unchanged.

    Example:
        >>> from octavo._util.extras import import_extra
        >>> import_extra("json", purpose="this example", extra="cli").dumps([1])
        '[1]'
    """
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ImportError(
            f"{purpose} needs {_DISTRIBUTIONS.get(package, package)}, which octavo's extra {extra!r} installs: "
            f"{install_command(extra)}",
            name=error.name,
        ) from error


def install_command(extra: str) -> str:
    """The command that adds an extra to the octavo that is running, from where it was installed.

    That is the package index, or the checkout, archive or repository that the installer has recorded (PEP 610).

    Example:
        >>> from octavo._util.extras import install_command
        >>> install_command("cli").startswith("pip install ")
        True
    """
    source = _direct_url()
    url, details = source.get("url", ""), source.get("dir_info")
    if details is not None:
        from urllib.parse import urlparse
        from urllib.request import url2pathname

        editable = "-e " if details.get("editable") else ""
        return f"pip install {editable}'{url2pathname(urlparse(url).path)}[{extra}]'"
    if url:
        version_control = source.get("vcs_info")
        if version_control:
            url = f"{version_control['vcs']}+{url}@{version_control['commit_id']}"
        return f"pip install 'octavo[{extra}] @ {url}'"
    return f"pip install 'octavo[{extra}]'"


# Packages that are installed under another name than they are imported by.
_DISTRIBUTIONS = {"sklearn": "scikit-learn"}


def _direct_url() -> dict[str, Any]:
    """Where octavo was installed from, as PEP 610 records it; empty for an index, or where nothing was installed."""
    import json
    from importlib import metadata

    try:
        text = metadata.distribution("octavo").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        text = None
    found: dict[str, Any] = json.loads(text) if text else {}
    return found
