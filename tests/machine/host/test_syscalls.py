"""System calls: what they do to memory, and what their errors say."""

from __future__ import annotations

import errno
import mmap
import os
import sys
import threading
import time

import pytest

from vmalloc.machine.host import scratch, syscalls
from vmalloc.machine.host.maps import mappings_in

PAGE = mmap.PAGESIZE
ANONYMOUS = syscalls.MAP_PRIVATE | syscalls.MAP_ANONYMOUS
RW = syscalls.PROT_READ | syscalls.PROT_WRITE


def code_of(call, *arguments) -> int:
    """The errno of a call that fails, whose message names the call and the cause."""
    with pytest.raises(OSError, match=r"^\[Errno \d+\] \w.*\(.*\): \w") as caught:
        call(*arguments)
    assert os.strerror(caught.value.errno) in str(caught.value)
    return caught.value.errno


@pytest.mark.parametrize("name", sorted({n for n in dir(syscalls) if n.startswith(("MAP_", "MADV_"))} & set(dir(mmap))))
def test_numbers_are_those_of_the_standard_library(name: str) -> None:
    assert getattr(syscalls, name) == getattr(mmap, name)


def test_numbers_that_old_headers_lack_are_the_kernels() -> None:
    assert (syscalls.MADV_GUARD_INSTALL, syscalls.MADV_GUARD_REMOVE, syscalls.MADV_COLLAPSE) == (102, 103, 25)
    assert (syscalls.MADV_POPULATE_READ, syscalls.MADV_POPULATE_WRITE, syscalls.MREMAP_DONTUNMAP) == (22, 23, 4)
    assert (syscalls.PR_SET_VMA, syscalls.UFFD_FEATURE_MOVE) == (0x53564D41, 1 << 16)
    assert syscalls.MAP_FIXED_NOREPLACE == 0x100000


def test_a_mapping_comes_is_used_and_goes() -> None:
    address = syscalls.mmap(0, 2 * PAGE, RW, ANONYMOUS)
    syscalls.touch(address, 2 * PAGE, PAGE)
    syscalls.store_byte(address + PAGE, 200)
    assert (syscalls.load_byte(address), syscalls.load_byte(address + PAGE)) == (1, 200)
    syscalls.munmap(address, 2 * PAGE)
    assert mappings_in(address, address + 2 * PAGE) == []
    assert not syscalls.readable(address)


def test_errors_carry_the_facts() -> None:
    with pytest.raises(OSError, match=r"mmap\(0x0-0x1000000000000000, 1048576 TiB, prot 0x3, flags 0x22\): ") as caught:
        syscalls.mmap(0, 1 << 60, RW, ANONYMOUS)
    assert caught.value.errno == errno.ENOMEM
    with scratch.private(PAGE) as address, pytest.raises(OSError, match=f"madvise.*{address:x}.*, 4 KiB, adv"):
        syscalls.madvise(address, PAGE, 99)


def test_failures_have_the_kernels_code() -> None:
    closed = os.dup(0)
    os.close(closed)
    assert code_of(syscalls.munmap, 1, 1) == errno.EINVAL
    assert code_of(syscalls.munmap, (1 << 64) - PAGE, 2 * PAGE) == errno.EINVAL
    assert code_of(syscalls.mmap, 0, PAGE, RW, syscalls.MAP_SHARED, closed, 0) == errno.EBADF
    assert code_of(syscalls.mprotect, 0, PAGE, RW) == errno.ENOMEM
    assert code_of(syscalls.mremap, PAGE, PAGE, PAGE, 0) == errno.EFAULT
    assert code_of(syscalls.memfd_create, "x" * 300, 0) == errno.EINVAL
    assert code_of(syscalls.ftruncate, closed, 0) == errno.EBADF
    assert code_of(syscalls.fallocate, closed, 0, 0, PAGE) == errno.EBADF
    assert code_of(syscalls.pidfd_open, -1) == errno.EINVAL
    assert code_of(syscalls.process_madvise, closed, [(0, PAGE)], syscalls.MADV_DONTNEED) == errno.EBADF
    assert code_of(syscalls.prctl, 0x7FFFFFFF) == errno.EINVAL
    assert code_of(syscalls.set_mempolicy, 99) in (errno.EINVAL, errno.EPERM)
    assert code_of(syscalls.mbind, 1, PAGE, syscalls.MPOL_BIND, [0]) in (errno.EINVAL, errno.EPERM)
    assert code_of(syscalls.get_mempolicy, 1, syscalls.MPOL_F_ADDR) in (errno.EFAULT, errno.EPERM)
    assert code_of(syscalls.uffd_features, closed) == errno.EBADF
    assert code_of(syscalls.uffd_register, closed, 0, PAGE) == errno.EBADF
    assert code_of(syscalls.uffd_move, closed, 0, PAGE, PAGE) == errno.EBADF


def test_what_no_call_can_mean_is_refused_before_it() -> None:
    with pytest.raises(OverflowError):
        syscalls.madvise(-1, PAGE, syscalls.MADV_DONTNEED)
    with pytest.raises(OSError, match="NUMA node 1024: the kernel has at most 1024"):
        syscalls.mbind(0, PAGE, syscalls.MPOL_BIND, [1024])
    with scratch.private(PAGE) as address, pytest.raises(ValueError, match="0 bytes never ends"):
        syscalls.touch(address, PAGE, 0)


def test_many_ranges_are_advised_in_one_call() -> None:
    pidfd = syscalls.pidfd_open(os.getpid())
    try:
        assert os.get_inheritable(pidfd) is False
        with scratch.private(3 * PAGE) as address:
            syscalls.touch(address, 3 * PAGE, PAGE)
            spans = [(address, address + PAGE), (address + 2 * PAGE, address + 3 * PAGE)]
            assert syscalls.process_madvise(pidfd, spans, syscalls.MADV_DONTNEED) == 2 * PAGE
            assert [syscalls.load_byte(address + n * PAGE) for n in range(3)] == [0, 1, 0]
        assert syscalls.process_madvise(pidfd, [], syscalls.MADV_DONTNEED) == 0
        with pytest.raises((TypeError, ValueError)):
            syscalls.process_madvise(pidfd, [1, 2], syscalls.MADV_DONTNEED)
    finally:
        os.close(pidfd)


def test_a_file_of_memory_is_shared_grown_and_punched() -> None:
    with scratch.shared(2 * PAGE) as (fd, address), scratch.private(PAGE) as second:
        syscalls.mmap(second, PAGE, syscalls.PROT_READ, syscalls.MAP_SHARED | syscalls.MAP_FIXED, fd, PAGE)
        syscalls.store_byte(address + PAGE, 9)
        assert syscalls.load_byte(second) == 9
        syscalls.fallocate(fd, syscalls.FALLOC_FL_PUNCH_HOLE | syscalls.FALLOC_FL_KEEP_SIZE, PAGE, PAGE)
        assert (syscalls.load_byte(second), os.fstat(fd).st_size) == (0, 2 * PAGE)
        assert os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:vmalloc probe")


def test_a_mapping_is_moved_with_its_bytes() -> None:
    with scratch.private(PAGE) as source, scratch.private(PAGE) as target:
        syscalls.store_byte(source, 5)
        assert syscalls.mremap(source, PAGE, PAGE, syscalls.MREMAP_MAYMOVE | syscalls.MREMAP_FIXED, target) == target
        assert syscalls.load_byte(target) == 5
        assert not syscalls.readable(source)


def test_readable_says_no_where_a_load_would_be_a_signal() -> None:
    with scratch.private(PAGE) as address:
        assert syscalls.readable(address)
        syscalls.mprotect(address, PAGE, syscalls.PROT_NONE)
        assert not syscalls.readable(address)
    assert not syscalls.readable(0)


def test_policies_and_nodes_are_read_back() -> None:
    mode, nodes = syscalls.get_mempolicy()
    assert mode == syscalls.MPOL_DEFAULT
    assert nodes == ()
    _, allowed = syscalls.get_mempolicy(0, syscalls.MPOL_F_MEMS_ALLOWED)
    with scratch.private(2 * PAGE) as address:
        syscalls.mbind(address, PAGE, syscalls.MPOL_BIND, allowed[-1:])
        assert syscalls.get_mempolicy(address, syscalls.MPOL_F_ADDR) == (syscalls.MPOL_BIND, allowed[-1:])
        syscalls.store_byte(address, 1)
        assert syscalls.page_nodes([address, address + PAGE]) == [allowed[-1], -errno.ENOENT]
    assert syscalls.page_nodes([]) == []
    found = []

    def in_a_thread() -> None:
        syscalls.set_mempolicy(syscalls.MPOL_INTERLEAVE, allowed[:1])
        found.append(syscalls.get_mempolicy())

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert found == [(syscalls.MPOL_INTERLEAVE, allowed[:1])]
    assert syscalls.get_mempolicy() == (syscalls.MPOL_DEFAULT, ())


def test_the_current_cpu_is_one_of_those_allowed() -> None:
    allowed = os.sched_getaffinity(0)
    assert syscalls.getcpu()[0] in allowed
    assert syscalls.sched_getcpu() in allowed
    assert syscalls.rseq_cpu() in allowed | {-errno.ENOSYS}


def test_a_symbol_is_found_by_name() -> None:
    assert syscalls.symbol("malloc") != 0
    assert syscalls.symbol("no_library_has_this_symbol") == 0


def test_the_interpreter_runs_on_while_the_kernel_clears_pages() -> None:
    """Another thread makes progress during a long call: nothing else here lets it."""
    size, counts, stop = 16 << 20, [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            counts[0] += 1
            time.sleep(0.0005)

    before = sys.getswitchinterval()
    sys.setswitchinterval(10)  # no thread is made to give up the interpreter in this test
    address = syscalls.mmap(0, size, RW, ANONYMOUS | syscalls.MAP_NORESERVE)
    thread = threading.Thread(target=count)
    thread.start()
    try:
        for _ in range(100):
            seen = counts[0]
            syscalls.madvise(address, size, syscalls.MADV_POPULATE_WRITE)
            if counts[0] > seen:
                break
            syscalls.madvise(address, size, syscalls.MADV_DONTNEED)
        else:
            pytest.fail("no progress in 100 calls")
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(before)
        syscalls.munmap(address, size)
