"""The comparison: alexkern against the strongest peers present, operator by operator and network by network.

`pytest bench/` in a checkout and `alexkern bench` anywhere run it. The helpers here are imported as `alexkern.bench`;
every bench_*.py is one thing that is compared, every file of peers/ is one competitor.
"""
