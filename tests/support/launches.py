"""Which kernels a call launches."""

from __future__ import annotations

from types import ModuleType

import pytest


def noted(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> list[str]:
    """The names of what these modules launch from now on, in a list that grows."""
    names: list[str] = []
    for module in modules:
        launch = module.launch

        def note(kernel: str, *arguments: object, launch: object = launch) -> None:
            names.append(kernel)
            launch(kernel, *arguments)  # type: ignore[operator]

        monkeypatch.setattr(module, "launch", note)
    return names
