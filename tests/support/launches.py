"""Which kernels a call launches."""

from __future__ import annotations

from types import ModuleType

import pytest


def noted(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType, but: str | None = None) -> list[str]:
    """The names of what these modules launch from now on, in a list that grows; one kernel may be left out."""
    names: list[str] = []
    for module in modules:
        launch = module.launch

        def note(kernel: str, *arguments: object, launch: object = launch) -> None:
            if kernel != but:
                names.append(kernel)
            launch(kernel, *arguments)  # type: ignore[operator]

        monkeypatch.setattr(module, "launch", note)
    return names
