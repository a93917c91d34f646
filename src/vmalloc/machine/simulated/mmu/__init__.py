"""How CPUs reach memory: TLBs, the walk behind a miss, what the kernel does about faults, flushes, device memory."""
