"""The kernel's own workloads: the cases of ``lib/test_vmalloc.c`` on a space, with workers on many CPUs."""
