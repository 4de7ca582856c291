"""What a layer's results go through in the same call."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["EPILOGUES", "Epilogue", "as_epilogue"]

Epilogue = Literal["relu", "gelu", "gelu_tanh", "sigmoid", "silu", "tanh"]
EPILOGUES: tuple[Epilogue, ...] = get_args(Epilogue)


def as_epilogue(epilogue: Epilogue | None, relu: bool) -> Epilogue | None:
    """What the arguments `epilogue` and `relu` of a layer stand for together.

    Raises:
        ValueError: the name is unknown, or the two contradict each other.

    Example:
        >>> as_epilogue(None, True), as_epilogue("gelu", False)
        ('relu', 'gelu')
    """
    if epilogue is not None and epilogue not in EPILOGUES:
        names = ", ".join(f'"{name}"' for name in EPILOGUES)
        raise ValueError(f"epilogue must be {names} or None, got {epilogue!r}")
    if relu and epilogue not in (None, "relu"):
        raise ValueError(f"relu=True and epilogue={epilogue!r} contradict each other; give one of them")
    return "relu" if relu else epilogue
