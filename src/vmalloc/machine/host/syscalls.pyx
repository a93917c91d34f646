"""System calls: the one file of this package that asks the kernel for memory.

Two faces:

* **For compiled modules** (``syscalls.pxd``): ``sys_...``, which need no interpreter lock and return ``-errno``.
* **For Python** (this file): functions of the same names without ``sys_``. They raise ``OSError`` with ``errno`` and
  the facts of the call: what, where, how much. Two results are numbers below zero instead, because they are answers and
  not failures: a page of ``page_nodes`` that is not there, and ``rseq_cpu`` where libc has none. They let go of the
  interpreter lock wherever the kernel may take its time, which is wherever pages are mapped, unmapped, moved or
  cleared; reading a policy or a CPU number keeps it.

Nothing here decides anything, and nothing here remembers anything. Addresses and sizes are bytes. **Nothing here checks
an address**: ``munmap`` of the wrong range takes memory from under other people, so callers own what they name.

Exists on Linux only, and only compiled: ``machine/host/__init__.py`` says so to those who ask.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc

from vmalloc.units import format_address, format_range, format_size

import os

#: The one number of syscalls.pxd that its list cannot hold.
UFFD_FEATURE_MOVE = <uint64_t>UFFD_FEATURE_MOVE_


cdef object failed(int64_t result, str call, str facts):
    """The error of a call that returned ``-errno``, with what was asked of it."""
    code = -result
    return OSError(code, f"{call}({facts}): {os.strerror(code)}")


cdef str span(uint64_t address, uint64_t size):
    """A range and its size, for messages."""
    if size > <uint64_t>-1 - address:
        return f"{format_address(address)}, {format_size(size)}"
    return f"{format_range(address, address + size)}, {format_size(size)}"


def mmap(uint64_t address, uint64_t size, int prot, int flags, int fd=-1, int64_t offset=0):
    """Maps ``size`` bytes of nothing (``MAP_ANONYMOUS``) or of a file; returns the address."""
    cdef int64_t result
    with nogil:
        result = sys_mmap(address, size, prot, flags, fd, offset)
    if result < 0:
        what = f"{span(address, size)}, prot {prot:#x}, flags {flags:#x}"
        raise failed(result, "mmap", what if fd < 0 else f"{what}, fd {fd} at {offset:#x}")
    return result


def munmap(uint64_t address, uint64_t size):
    """Unmaps ``[address, address + size)``, whoever mapped it."""
    cdef int result
    with nogil:
        result = sys_munmap(address, size)
    if result < 0:
        raise failed(result, "munmap", span(address, size))


def mremap(uint64_t address, uint64_t old_size, uint64_t new_size, int flags, uint64_t target=0):
    """Grows, shrinks or moves a mapping; returns its address. ``target`` counts with ``MREMAP_FIXED``."""
    cdef int64_t result
    with nogil:
        result = sys_mremap(address, old_size, new_size, flags, target)
    if result < 0:
        what = f"{span(address, old_size)}, to {format_size(new_size)} at {format_address(target)}, flags {flags:#x}"
        raise failed(result, "mremap", what)
    return result


def mprotect(uint64_t address, uint64_t size, int prot):
    """Changes what may be done with pages; the rest of a mapping that is cut becomes a mapping of its own."""
    cdef int result
    with nogil:
        result = sys_mprotect(address, size, prot)
    if result < 0:
        raise failed(result, "mprotect", f"{span(address, size)}, prot {prot:#x}")


def madvise(uint64_t address, uint64_t size, int advice):
    """Gives one of the kernel's ``MADV_`` advices on a range of whole pages."""
    cdef int result
    with nogil:
        result = sys_madvise(address, size, advice)
    if result < 0:
        raise failed(result, "madvise", f"{span(address, size)}, advice {advice}")


def process_madvise(int pidfd, spans, int advice):
    """Gives one advice on many ranges in one call.

    Args:
        pidfd: the process, as ``pidfd_open`` gave it: a child made by fork needs one of its own.
        spans: ranges ``(start, end)`` in bytes; the kernel takes 1,024 at most.
        advice: an ``MADV_`` number.

    Returns:
        The bytes that were advised: fewer than asked when a range in the middle failed.

    Raises:
        OSError: the first range failed; EINVAL or EPERM also where the kernel does not offer the advice.
    """
    ranges = list(spans)
    cdef uint64_t count = len(ranges), n
    cdef int64_t result
    cdef Span *vector = <Span *>malloc(max(count, 1) * sizeof(Span))
    if vector is NULL:
        raise MemoryError("no memory for the vector of process_madvise")
    try:
        for n in range(count):
            start, end = ranges[n]
            vector[n].start = start
            vector[n].size = end - start
        with nogil:
            result = sys_process_madvise(pidfd, vector, count, advice)
    finally:
        free(vector)
    if result < 0:
        raise failed(result, "process_madvise", f"{count} ranges, advice {advice}")
    return result


def pidfd_open(int pid):
    """Opens a process as a file descriptor, closed on exec; it stays that process's, also in a child made by fork."""
    cdef int result = sys_pidfd_open(pid)
    if result < 0:
        raise failed(result, "pidfd_open", f"pid {pid}")
    return result


def memfd_create(str name, unsigned int flags):
    """Makes a file of memory without a path, 0 bytes long; returns its descriptor."""
    encoded = os.fsencode(name)
    cdef const char *text = encoded
    cdef int result = sys_memfd_create(text, flags)
    if result < 0:
        raise failed(result, "memfd_create", f"{name!r}, flags {flags:#x}")
    return result


def ftruncate(int fd, int64_t size):
    """Sets a file's size."""
    cdef int result
    with nogil:
        result = sys_ftruncate(fd, size)
    if result < 0:
        raise failed(result, "ftruncate", f"fd {fd}, {size} bytes")


def fallocate(int fd, int mode, int64_t offset, int64_t size):
    """Gives a file pages, or takes them (``FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE``)."""
    cdef int result
    with nogil:
        result = sys_fallocate(fd, mode, offset, size)
    if result < 0:
        raise failed(result, "fallocate", f"fd {fd}, mode {mode:#x}, {offset:#x}, {size} bytes")


cdef int write_nodes(object nodes, uint64_t *words) except -1:
    """Writes node numbers as the kernel's bit mask of NODE_WORDS words."""
    cdef int word
    for word in range(NODE_WORDS):
        words[word] = 0
    for node in nodes:
        if not 0 <= node < NODE_LIMIT:
            raise OSError(22, f"NUMA node {node}: the kernel has at most {NODE_LIMIT}")
        words[<int>node // 64] |= <uint64_t>1 << (<int>node % 64)
    return 0


cdef tuple read_nodes(const uint64_t *words):
    """The node numbers of a bit mask."""
    return tuple([node for node in range(NODE_LIMIT) if words[<int>node // 64] >> (<int>node % 64) & 1])


def mbind(uint64_t address, uint64_t size, int mode, nodes=(), unsigned int flags=0):
    """Says from which NUMA nodes new pages of a range come; with ``MPOL_MF_MOVE`` those that are there move too."""
    cdef uint64_t[NODE_WORDS] words
    cdef bint named = bool(nodes)
    cdef int result
    write_nodes(nodes, words)
    with nogil:
        result = sys_mbind(address, size, mode, words if named else NULL, flags)
    if result < 0:
        raise failed(result, "mbind", f"{span(address, size)}, mode {mode}, nodes {tuple(nodes)}")


def set_mempolicy(int mode, nodes=()):
    """Sets from which NUMA nodes new pages of the calling thread come."""
    cdef uint64_t[NODE_WORDS] words
    write_nodes(nodes, words)
    cdef int result = sys_set_mempolicy(mode, words if nodes else NULL)
    if result < 0:
        raise failed(result, "set_mempolicy", f"mode {mode}, nodes {tuple(nodes)}")


def get_mempolicy(uint64_t address=0, unsigned int flags=0):
    """Reads a memory policy.

    Args:
        address: an address whose policy (``MPOL_F_ADDR``) or whose page's node (and ``MPOL_F_NODE``) is asked for.
        flags: ``MPOL_F_`` numbers; 0 asks for the policy of the calling thread, ``MPOL_F_MEMS_ALLOWED`` for the nodes
            that this process may use.

    Returns:
        ``(mode or node, nodes)``.
    """
    cdef uint64_t[NODE_WORDS] words
    cdef int mode = 0
    write_nodes((), words)
    cdef int result = sys_get_mempolicy(address, flags, &mode, words)
    if result < 0:
        raise failed(result, "get_mempolicy", f"{format_address(address)}, flags {flags:#x}")
    return mode, read_nodes(words)


def page_nodes(addresses):
    """Returns for each address the NUMA node of its page, or -errno where there is none (-ENOENT: no page yet)."""
    cdef uint64_t count = len(addresses), n
    cdef int result = 0
    cdef uint64_t *pages = <uint64_t *>malloc(max(count, 1) * sizeof(uint64_t))
    cdef int *nodes = <int *>malloc(max(count, 1) * sizeof(int))
    try:
        if pages is NULL or nodes is NULL:
            raise MemoryError("no memory for the addresses of page_nodes")
        for n in range(count):
            pages[n] = addresses[n]
            nodes[n] = -2  # ENOENT: what the kernel leaves out is not there
        with nogil:
            result = sys_page_nodes(count, pages, nodes)
        if result < 0:
            raise failed(result, "move_pages", f"{count} addresses")
        return [nodes[n] for n in range(count)]
    finally:
        free(pages)
        free(nodes)


def prctl(int option, uint64_t a=0, uint64_t b=0, uint64_t c=0, uint64_t d=0):
    """Asks or changes something of this process or thread; returns the kernel's answer."""
    cdef int result = sys_prctl(option, a, b, c, d)
    if result < 0:
        raise failed(result, "prctl", f"{option:#x}, {a:#x}, {b:#x}, {c:#x}, {d:#x}")
    return result


def name_range(uint64_t address, uint64_t size, str name):
    """Names anonymous memory: ``/proc/self/maps`` then shows ``[anon:name]``."""
    encoded = os.fsencode(name)
    cdef const char *text = encoded
    cdef int result = sys_prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, address, size, <uint64_t>text)
    if result < 0:
        raise failed(result, "prctl", f"PR_SET_VMA_ANON_NAME, {span(address, size)}, {name!r}")


def getcpu():
    """Returns ``(cpu, node)`` of the calling thread, by a system call; both may be out of date at once."""
    cdef unsigned int cpu = 0, node = 0
    cdef int result = sys_getcpu(&cpu, &node)
    if result < 0:
        raise failed(result, "getcpu", "")
    return cpu, node


def sched_getcpu():
    """Returns the CPU of the calling thread, the way the C library finds out; may be out of date at once."""
    cdef int result = sys_sched_getcpu()
    if result < 0:
        raise failed(result, "sched_getcpu", "")
    return result


def rseq_cpu():
    """Returns the CPU of the calling thread as its restartable-sequence area says, or -ENOSYS when it has none."""
    return sys_rseq_cpu()


def userfaultfd(int flags):
    """Opens a userfaultfd; with ``UFFD_USER_MODE_ONLY`` it needs no privilege, and serves no faults of the kernel."""
    cdef int result = sys_userfaultfd(flags)
    if result < 0:
        raise failed(result, "userfaultfd", f"flags {flags:#x}")
    return result


def uffd_features(int fd, uint64_t features=0):
    """Begins to use a userfaultfd, asking for ``features``; returns all that the kernel offers. Once per descriptor."""
    cdef int result = sys_uffd_api(fd, &features)
    if result < 0:
        raise failed(result, "ioctl(UFFDIO_API)", f"fd {fd}, features {features:#x}")
    return features


def uffd_register(int fd, uint64_t address, uint64_t size):
    """Puts a range under a userfaultfd: accesses to its missing pages wait for whoever reads ``fd``."""
    cdef int result = sys_uffd_register(fd, address, size)
    if result < 0:
        raise failed(result, "ioctl(UFFDIO_REGISTER)", f"fd {fd}, {span(address, size)}")


def uffd_move(int fd, uint64_t target, uint64_t source, uint64_t size):
    """Moves pages to where none are, in a range under ``fd``; returns the bytes moved."""
    cdef int64_t result
    with nogil:
        result = sys_uffd_move(fd, target, source, size)
    if result < 0:
        raise failed(result, "ioctl(UFFDIO_MOVE)", f"fd {fd}, {span(source, size)}, to {format_address(target)}")
    return result


# -- memory itself -----------------------------------------------------------------------------------------------------


def touch(uint64_t address, uint64_t size, uint64_t step):
    """Writes one byte, not zero, at every ``step`` bytes of a range of our own that may be written."""
    cdef uint64_t at = address
    if step == 0:
        raise ValueError("touch: a step of 0 bytes never ends")
    with nogil:
        while at < address + size:
            (<volatile unsigned char *>at)[0] = 1
            at += step


def load_byte(uint64_t address):
    """Loads a byte; where nothing can be loaded the process gets its signal: see ``readable``."""
    return (<volatile unsigned char *>address)[0]


def store_byte(uint64_t address, unsigned char value):
    """Stores a byte of our own memory."""
    (<volatile unsigned char *>address)[0] = value


def readable(uint64_t address):
    """Tells whether a byte can be loaded, without loading it: the kernel is asked to, and says EFAULT if it cannot."""
    cdef int result = sys_readable(address)
    if result < 0:
        raise failed(result, "pipe2 or write", format_address(address))
    return result == 1


def symbol(str name):
    """Returns the address of a C symbol that some library of this process exports; 0 when none does."""
    encoded = os.fsencode(name)
    cdef const char *text = encoded
    return symbol_address(text)
