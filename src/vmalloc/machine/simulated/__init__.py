"""The simulated machine: frames, page tables, TLBs, CPUs and NUMA nodes of a modelled computer."""
