"""Why Linux flushes TLBs once for thousands of frees: the same work, purged eagerly and lazily.

    python examples/teach_lazy_purge.py

Freeing unmaps at once.  What other CPUs remember has to be flushed before somebody else can get the addresses, and a
flush interrupts every CPU.  So Linux lets freed addresses wait - *lazy* - until there are enough of them, and then
flushes once for all.  Here one program runs twice on a machine of eight CPUs: with a purge after every free, and as
Linux does it.
"""

from __future__ import annotations

import vmalloc

FREES = 20_000


def run(eager: bool) -> dict[str, float]:
    """Allocates and frees; the counters of the machine afterwards."""
    with vmalloc.simulated("x86_64", kernel="6.19", cpus=8, memory="1GiB") as space:
        kept = [space.vmalloc(4096) for _ in range(64)]  # somebody else's areas lie between
        highest = 0
        for k in range(FREES):
            with space.on_cpu(k % 8):
                area = space.vmalloc(4 * 4096)
                area.write(0, b"x")  # the CPU remembers the translation
            space.vfree(area)
            if eager:
                space.purge()
            highest = max(highest, area.end)
        counts = space.stats()
        assert len(kept) == 64
        space.validate()
        return {
            "purges": counts["purges"],
            "flushes": counts["tlb_flushes"],
            "of everything": counts["tlb_full_flushes"],
            "interrupts": counts["ipis"],
            "lazy pages at the end": counts["lazy_pages"],
            "addresses used, KiB": (highest - space.state.vmalloc_start) >> 10,
        }


def show_threshold() -> None:
    """The purge starts strictly above the threshold."""
    with vmalloc.simulated("x86_64", kernel="6.19", cpus=1, memory="256MiB") as space:
        limit = space.stats()["lazy_max_pages"]
        frees = 0
        while not space.machine.has_deferred():
            space.vfree(space.vmalloc(4096))
            frees += 1
        print(f"threshold on one CPU: {limit:,} pages, {limit * 4 >> 10} MiB")
        print(f"frees until a drain is queued: {frees:,}, of 2 pages each, the guard page counts")
        print(f"lazy now: {space.stats()['lazy_pages']:,} pages; a worker runs: {space.run_deferred()} piece of work")
        print(f"lazy now: {space.stats()['lazy_pages']:,} pages, flushes: {space.stats()['tlb_flushes']}")


def main() -> None:
    """Both runs side by side."""
    eager, lazy = run(eager=True), run(eager=False)
    print(f"{FREES:,} frees on 8 CPUs{'':10}{'eager':>12}{'lazy':>12}")
    for name, count in eager.items():
        print(f"  {name:30}{count:>12,}{lazy[name]:>12,}")
    print("\nLazy purging saves interrupts, and pays with addresses.\n")
    show_threshold()


if __name__ == "__main__":
    main()
