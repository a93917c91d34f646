"""What KASAN finds, and what a machine without it misses.

    python examples/kasan.py

Three bugs of a driver, on two machines: one byte too far, a use after free, and a second free.  Without KASAN the page
tables find what is not mapped, and nothing else; with it each bug has a report that names the byte, who allocated it
and who freed it.
"""

from __future__ import annotations

import vmalloc


def one_byte_too_far(space) -> bytes:
    """A table of 5001 bytes has one more line than its reader thinks."""
    table = space.vmalloc(5001)
    return space.load(table.address + 4998, 8)


def read_after_free(space) -> bytes:
    """An interrupt on another CPU gives the table back while it is used."""
    table = space.vmalloc(5001)
    space.load(table.address, 8)
    with space.on_cpu(1), space.in_context("hardirq"):
        space.vfree(table)
    space.run_deferred()
    return space.load(table.address, 8)


def free_twice(space) -> None:
    """Two owners."""
    table = space.vmalloc(5001)
    address = table.address
    space.vfree(table)
    space.purge()
    space.vfree(address)


def try_it(space, bug) -> str:
    """What comes of a bug."""
    try:
        bug(space)
    except vmalloc.VmallocError as error:
        return str(error)
    return "nothing was noticed"


def main() -> None:
    """All bugs, both machines."""
    for kasan in (False, True):
        print(f"\n== {'with' if kasan else 'without'} KASAN\n")
        with vmalloc.simulated("x86_64", kernel="6.19", cpus=2, memory="64MiB", kasan=kasan) as space:
            for bug in (one_byte_too_far, read_after_free, free_twice):
                print(f"{bug.__name__}: {try_it(space, bug)}\n")
            if not kasan:
                continue
            print("\n".join(space.dmesg()))
            space.validate()
            counts = space.stats()
            pages, checks = counts["kasan_shadow_pages_peak"], counts["kasan_checks"]
            print(f"\nshadow pages at most: {pages}, checks: {checks}, reports: {counts['kasan_reports']}")


if __name__ == "__main__":
    main()
