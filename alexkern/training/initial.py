"""`--init`: a run that begins with the weights of another one."""

from __future__ import annotations

from dataclasses import replace

from alexkern.console import first_line
from alexkern.models import AlexNet, Weights
from alexkern.models.weights import HEAD, check_weights
from alexkern.training.errors import TrainingError


def begin_with(model: AlexNet, weights: Weights) -> tuple[str, ...]:
    """Take a file's weights; the layers that stay new: the last one, where the file's is for other classes.

    Raises:
        TrainingError: they are another network's.
    """
    ours, theirs = model.state_dict(), dict(weights.state_dict)
    head = [name for name in ours if name.startswith(HEAD)]
    fits = all(name in theirs and theirs[name].shape == ours[name].shape for name in head)
    new = not fits or weights.classes not in (None, model.classes)
    if new:
        theirs |= {name: ours[name] for name in head if name in theirs}
    try:
        check_weights(model, replace(weights, state_dict=theirs))
    except ValueError as error:
        raise TrainingError(f"--init: {first_line(error)}") from None
    model.load_state_dict(theirs)
    return (HEAD,) if new else ()
