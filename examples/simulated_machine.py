"""A guided tour of the simulated machine: what vmalloc does, seen from every side.

    python examples/simulated_machine.py

A computer with two NUMA nodes runs Linux 6.19's allocator.  The tour allocates, looks at what the kernel would show,
frees from an interrupt on another CPU, and leaves out a TLB flush on purpose.
"""

from __future__ import annotations

import vmalloc


def say(text: str) -> None:
    """A heading."""
    print(f"\n== {text}\n")


def allocate(space) -> list[object]:
    """Areas of several kinds; as long as somebody holds them they live."""
    say("A computer")
    print(space)
    say("Some areas, and /proc/vmallocinfo")
    small = space.vmalloc(10_000)
    huge = space.vmalloc_huge(2 << 20)
    device = space.ioremap(0x3_0000_0000, 8192)
    alias = space.vmap([small.pages[2], small.pages[0]])
    print(space.vmallocinfo(), end="")
    small.write(0, b"the same frame")
    print(f"\nWritten at {small.address:#x}, read at {alias.address + 4096:#x}: {alias.read(4096, 14)!r}")
    print(f"mapped in pieces of {1 << huge.page_shift >> 20} MiB: {huge}")
    return [small, huge, device, alias]


def guard(space, area) -> None:
    """One byte too far."""
    say("One byte behind an area is its guard page")
    try:
        space.load(area.end, 1)
    except vmalloc.Fault as fault:
        print(fault)


def tables(space) -> None:
    """What mapping has built."""
    say("The page tables: mappings, then the tree")
    print(space.machine.page_table.dump())
    counts = space.stats()
    print(f"{counts['page_table_bytes'] >> 10} KiB of page tables, {counts['mappings_shift21']} mapping of 2 MiB")


def free_in_an_interrupt(space, area) -> None:
    """A worker does what an interrupt cannot."""
    say("CPU 3 frees an area in a hard interrupt")
    with space.on_cpu(3), space.in_context("hardirq"):
        space.vfree(area)
    print(f"waiting for a worker: {space.stats()['deferred_frees']}, alive: {area.alive}")
    print(f"pieces of work done: {space.run_deferred()}, alive: {area.alive}")
    print("unmapped, not flushed yet; /proc/vmallocinfo calls it:")
    print("  ", next(line for line in space.vmallocinfo().splitlines() if "unpurged" in line))


def forget_a_flush(space) -> None:
    """Why a purge flushes."""
    say("A purge without its flush")
    with space.on_cpu(1):
        old = space.vmalloc(4096)
        old.write(0, b"private")  # CPU 1 remembers the translation from here on
    space.vfree(old)
    space.machine.drop_flushes(1)
    space.purge()
    with space.on_cpu(1):
        new = space.vmalloc(4096)
    print(f"freed {old.address:#x}, got {new.address:#x}: the same addresses for somebody else")
    new.write(0, b"public!")
    with space.on_cpu(1):
        try:
            space.load(new.address, 7)
        except vmalloc.Fault as fault:
            print(f"CPU 1: {fault.kind}")
        space.machine.mmu.follow_stale = True  # as hardware does it
        print(f"what CPU 1 would read: {space.load(new.address, 7)!r}; what CPU 0 reads: ", end="")
        space.machine.mmu.follow_stale = False
    print(f"{space.load(new.address, 7)!r}")
    space.machine.flush(new.address, new.end)  # what was left out
    with space.on_cpu(1):
        print(f"after the flush, CPU 1 reads {space.load(new.address, 7)!r}")
    flushes = space.stats()
    print(f"flushes so far: {flushes['tlb_flushes']}, interrupts sent for them: {flushes['ipis']}")


def numa(space) -> None:
    """Where frames come from."""
    say("NUMA: frames of the running CPU's node, unless somebody says otherwise")
    for cpu in (0, 3):
        with space.on_cpu(cpu), space.vmalloc(4096) as area:
            print(f"on CPU {cpu}: node {area.node}")
    with space.vmalloc_node(4096, 1) as area:
        print(f"vmalloc_node(4096, 1) on CPU 0: node {area.node}")
    with space.mempolicy("interleave", [0, 1]):
        areas = [space.vmalloc(16 * 4096) for _ in range(6)]  # each is one block of 16 frames
    print(f"six areas, interleaved: nodes {[area.node for area in areas]}")


def main() -> None:
    """The tour."""
    with vmalloc.simulated("x86_64", kernel="6.19", cpus=4, nodes=2, memory="1GiB") as space:
        areas = allocate(space)
        guard(space, areas[0])
        tables(space)
        free_in_an_interrupt(space, areas[0])
        forget_a_flush(space)
        numa(space)
        space.validate()
        say("Every structure was checked: frames, page tables, TLBs, areas")


if __name__ == "__main__":
    main()
