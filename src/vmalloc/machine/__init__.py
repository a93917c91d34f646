"""Machines: what memory is.  ``base`` is the interface, ``simulated`` and ``host`` are the two that exist."""
