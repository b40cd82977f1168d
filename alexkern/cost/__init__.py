"""What GPUs are made of, and what that says of a schedule: pure functions of a problem and a chip.

They rank schedules. What they give as times was not measured. `python -m alexkern.cost conv2d_relu --chip h200` prints
what they choose for AlexNet's layers.
"""
