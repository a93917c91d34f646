# System calls for compiled modules, and the kernel's numbers; syscalls.pyx is the face for Python, and says more.
#
# Every sys_ function returns what the call returns, or -errno. It never raises and needs no interpreter lock: an
# allocator that runs short of memory, of mappings or of a feature has an ordinary case before it, and something to undo.
# They are C, and inline, so that a module which cimports them calls the kernel and nothing in between.
#
# Numbers come from the headers this is built with; what old headers lack is defined here with the kernel's value. Where
# libc may lack a call (glibc 2.17 has no memfd_create) its number is used; where the headers lack the number, the call
# answers ENOSYS as an old kernel would. A number is no promise: whether the running kernel knows it is for the probes to
# find out. The numbers are also attributes of the Python module.

from libc.stdint cimport int64_t, uint64_t

cdef extern from *:
    """
    #include <dlfcn.h>
    #include <errno.h>
    #include <fcntl.h>
    #include <sched.h>
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/ioctl.h>
    #include <sys/mman.h>
    #include <sys/prctl.h>
    #include <sys/syscall.h>
    #include <sys/uio.h>
    #include <unistd.h>

    #ifndef MAP_NORESERVE
    #define MAP_NORESERVE 0x4000
    #endif
    #ifndef MAP_FIXED_NOREPLACE
    #define MAP_FIXED_NOREPLACE 0x100000
    #endif
    #ifndef MREMAP_DONTUNMAP
    #define MREMAP_DONTUNMAP 4
    #endif
    #ifndef MADV_FREE
    #define MADV_FREE 8
    #endif
    #ifndef MADV_WIPEONFORK
    #define MADV_WIPEONFORK 18
    #endif
    #ifndef MADV_KEEPONFORK
    #define MADV_KEEPONFORK 19
    #endif
    #ifndef MADV_POPULATE_READ
    #define MADV_POPULATE_READ 22
    #endif
    #ifndef MADV_POPULATE_WRITE
    #define MADV_POPULATE_WRITE 23
    #endif
    #ifndef MADV_COLLAPSE
    #define MADV_COLLAPSE 25
    #endif
    #ifndef MADV_GUARD_INSTALL
    #define MADV_GUARD_INSTALL 102
    #endif
    #ifndef MADV_GUARD_REMOVE
    #define MADV_GUARD_REMOVE 103
    #endif
    #ifndef MFD_CLOEXEC
    #define MFD_CLOEXEC 1
    #endif
    #ifndef MFD_ALLOW_SEALING
    #define MFD_ALLOW_SEALING 2
    #endif
    #ifndef MFD_NOEXEC_SEAL
    #define MFD_NOEXEC_SEAL 8
    #endif
    #ifndef FALLOC_FL_KEEP_SIZE
    #define FALLOC_FL_KEEP_SIZE 1
    #endif
    #ifndef FALLOC_FL_PUNCH_HOLE
    #define FALLOC_FL_PUNCH_HOLE 2
    #endif
    #ifndef PR_SET_THP_DISABLE
    #define PR_SET_THP_DISABLE 41
    #endif
    #ifndef PR_GET_THP_DISABLE
    #define PR_GET_THP_DISABLE 42
    #endif
    #ifndef PR_SET_VMA
    #define PR_SET_VMA 0x53564d41
    #endif
    #ifndef PR_SET_VMA_ANON_NAME
    #define PR_SET_VMA_ANON_NAME 0
    #endif

    /* linux/mempolicy.h has these as an enum, libnuma's numaif.h as macros; neither is needed for eight numbers. */
    #ifndef MPOL_DEFAULT
    #define MPOL_DEFAULT 0
    #define MPOL_PREFERRED 1
    #define MPOL_BIND 2
    #define MPOL_INTERLEAVE 3
    #define MPOL_LOCAL 4
    #define MPOL_F_NODE 1
    #define MPOL_F_ADDR 2
    #define MPOL_F_MEMS_ALLOWED 4
    #define MPOL_MF_MOVE 2
    #endif

    /* linux/userfaultfd.h of an old system lacks most of these, and another of the same name must not disagree. */
    #define UFFD_USER_MODE_ONLY_ 1
    #define UFFD_FEATURE_MOVE_ (1ULL << 16)

    static inline int64_t or_errno(int64_t result) { return result == -1 ? -(int64_t)errno : result; }

    static inline int64_t sys_mmap(uint64_t at, uint64_t size, int prot, int flags, int fd, int64_t offset) {
        return or_errno((int64_t)mmap((void *)at, size, prot, flags, fd, offset));
    }
    static inline int sys_munmap(uint64_t at, uint64_t size) { return (int)or_errno(munmap((void *)at, size)); }
    static inline int64_t sys_mremap(uint64_t at, uint64_t old_size, uint64_t new_size, int flags, uint64_t target) {
        return or_errno((int64_t)mremap((void *)at, old_size, new_size, flags, (void *)target));
    }
    static inline int sys_mprotect(uint64_t at, uint64_t size, int prot) {
        return (int)or_errno(mprotect((void *)at, size, prot));
    }
    static inline int sys_madvise(uint64_t at, uint64_t size, int advice) {
        return (int)or_errno(madvise((void *)at, size, advice));
    }
    static inline int sys_ftruncate(int fd, int64_t size) { return (int)or_errno(ftruncate(fd, size)); }
    static inline int sys_fallocate(int fd, int mode, int64_t offset, int64_t size) {
        return (int)or_errno(fallocate(fd, mode, offset, size));
    }
    static inline int sys_prctl(int option, uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
        return (int)or_errno(prctl(option, (unsigned long)a, (unsigned long)b, (unsigned long)c, (unsigned long)d));
    }
    static inline int sys_sched_getcpu(void) { return (int)or_errno(sched_getcpu()); }
    static inline uint64_t symbol_address(const char *name) { return (uint64_t)dlsym(RTLD_DEFAULT, name); }

    #ifndef SYS_process_madvise
    #define SYS_process_madvise 440
    #endif
    #ifndef SYS_pidfd_open
    #define SYS_pidfd_open 434
    #endif

    static inline int64_t sys_process_madvise(int pidfd, const void *spans, uint64_t count, int advice) {
        return or_errno(syscall(SYS_process_madvise, pidfd, spans, (size_t)count, advice, 0u));
    }
    static inline int sys_pidfd_open(int pid) { return (int)or_errno(syscall(SYS_pidfd_open, pid, 0u)); }

    static inline int sys_memfd_create(const char *name, unsigned flags) {
    #ifdef SYS_memfd_create
        return (int)or_errno(syscall(SYS_memfd_create, name, flags));
    #else
        return -ENOSYS;
    #endif
    }

    static inline int sys_mbind(uint64_t at, uint64_t size, int mode, const uint64_t *nodes, unsigned flags) {
    #ifdef SYS_mbind
        /* The kernel reads one bit less than it is told: 1025 for 1024 nodes. */
        return (int)or_errno(syscall(SYS_mbind, (size_t)at, (size_t)size, mode, nodes, nodes ? 1025ul : 0ul, flags));
    #else
        return -ENOSYS;
    #endif
    }
    static inline int sys_set_mempolicy(int mode, const uint64_t *nodes) {
    #ifdef SYS_set_mempolicy
        return (int)or_errno(syscall(SYS_set_mempolicy, mode, nodes, nodes ? 1025ul : 0ul));
    #else
        return -ENOSYS;
    #endif
    }
    static inline int sys_get_mempolicy(uint64_t at, unsigned flags, int *mode, uint64_t *nodes) {
    #ifdef SYS_get_mempolicy
        return (int)or_errno(syscall(SYS_get_mempolicy, mode, nodes, 1025ul, (size_t)at, (unsigned long)flags));
    #else
        return -ENOSYS;
    #endif
    }
    static inline int sys_page_nodes(uint64_t count, const uint64_t *addresses, int *nodes) {
    #ifdef SYS_move_pages
        return (int)or_errno(syscall(SYS_move_pages, 0, (unsigned long)count, addresses, NULL, nodes, 0));
    #else
        return -ENOSYS;
    #endif
    }
    static inline int sys_getcpu(unsigned *cpu, unsigned *node) {
        return (int)or_errno(syscall(SYS_getcpu, cpu, node, NULL));
    }

    /* glibc 2.35 registers restartable sequences for every thread; the kernel then keeps the CPU's number in the thread's
       own memory, 4 bytes into struct rseq. The symbols are looked up because a build must run on an older libc too. */
    static inline int sys_rseq_cpu(void) {
        static ptrdiff_t *offset;
        static unsigned *size;
        if (!size) {
            offset = (ptrdiff_t *)dlsym(RTLD_DEFAULT, "__rseq_offset");
            size = (unsigned *)dlsym(RTLD_DEFAULT, "__rseq_size");
        }
        if (!offset || !size || !*size) return -ENOSYS;
        char *thread;
    #if defined(__x86_64__) && !defined(__ILP32__)
        __asm__("mov %%fs:0, %0" : "=r"(thread));
    #elif defined(__aarch64__)
        __asm__("mrs %0, tpidr_el0" : "=r"(thread));
    #else
        return -ENOSYS;
    #endif
        return *(volatile int *)(thread + *offset + 4);
    }

    /* A byte is readable when the kernel can read it for us: write() answers EFAULT where a load would be a signal. Only a
       pipe will do: /dev/null takes any number of bytes without looking at one. */
    static inline int sys_readable(uint64_t address) {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) < 0) return -errno;
        int result = write(ends[1], (const void *)(uintptr_t)address, 1) == 1 ? 1 : errno == EFAULT ? 0 : -errno;
        close(ends[0]);
        close(ends[1]);
        return result;
    }

    /* userfaultfd, without its header: three requests and their structures. */
    struct uffd_api { uint64_t api, features, ioctls; };
    struct uffd_register { uint64_t start, size, mode, ioctls; };
    struct uffd_move { uint64_t target, source, size, mode; int64_t moved; };
    static inline int sys_userfaultfd(int flags) {
    #ifdef SYS_userfaultfd
        return (int)or_errno(syscall(SYS_userfaultfd, flags));
    #else
        return -ENOSYS;
    #endif
    }
    static inline int sys_uffd_api(int fd, uint64_t *features) {
        struct uffd_api request = { 0xAA, *features, 0 };
        int result = (int)or_errno(ioctl(fd, _IOWR(0xAA, 0x3F, struct uffd_api), &request));
        *features = request.features;
        return result;
    }
    static inline int sys_uffd_register(int fd, uint64_t start, uint64_t size) {
        struct uffd_register request = { start, size, 1 /* missing pages */, 0 };
        return (int)or_errno(ioctl(fd, _IOWR(0xAA, 0x00, struct uffd_register), &request));
    }
    static inline int64_t sys_uffd_move(int fd, uint64_t target, uint64_t source, uint64_t size) {
        struct uffd_move request = { target, source, size, 0, 0 };
        int result = (int)or_errno(ioctl(fd, _IOWR(0xAA, 0x05, struct uffd_move), &request));
        return request.moved > 0 ? request.moved : result;
    }
    """
    cpdef enum:
        PROT_NONE
        PROT_READ
        PROT_WRITE
        MAP_PRIVATE
        MAP_SHARED
        MAP_ANONYMOUS
        MAP_FIXED
        MAP_FIXED_NOREPLACE
        MAP_NORESERVE
        MAP_POPULATE
        MREMAP_MAYMOVE
        MREMAP_FIXED
        MREMAP_DONTUNMAP
        MADV_DONTNEED
        MADV_FREE
        MADV_DONTFORK
        MADV_DOFORK
        MADV_WIPEONFORK
        MADV_KEEPONFORK
        MADV_HUGEPAGE
        MADV_NOHUGEPAGE
        MADV_POPULATE_READ
        MADV_POPULATE_WRITE
        MADV_COLLAPSE
        MADV_GUARD_INSTALL
        MADV_GUARD_REMOVE
        MFD_CLOEXEC
        MFD_ALLOW_SEALING
        MFD_NOEXEC_SEAL
        FALLOC_FL_KEEP_SIZE
        FALLOC_FL_PUNCH_HOLE
        PR_SET_THP_DISABLE
        PR_GET_THP_DISABLE
        PR_SET_VMA
        PR_SET_VMA_ANON_NAME
        MPOL_DEFAULT
        MPOL_PREFERRED
        MPOL_BIND
        MPOL_INTERLEAVE
        MPOL_LOCAL
        MPOL_F_NODE
        MPOL_F_ADDR
        MPOL_F_MEMS_ALLOWED
        MPOL_MF_MOVE
        UFFD_USER_MODE_ONLY "UFFD_USER_MODE_ONLY_"
    const uint64_t UFFD_FEATURE_MOVE_  # does not fit a C int

    int64_t sys_mmap(uint64_t address, uint64_t size, int prot, int flags, int fd, int64_t offset) noexcept nogil
    int sys_munmap(uint64_t address, uint64_t size) noexcept nogil
    int64_t sys_mremap(uint64_t address, uint64_t old_size, uint64_t new_size, int flags, uint64_t target) noexcept nogil
    int sys_mprotect(uint64_t address, uint64_t size, int prot) noexcept nogil
    int sys_madvise(uint64_t address, uint64_t size, int advice) noexcept nogil
    int64_t sys_process_madvise(int pidfd, const void *spans, uint64_t count, int advice) noexcept nogil
    int sys_pidfd_open(int pid) noexcept nogil
    int sys_memfd_create(const char *name, unsigned int flags) noexcept nogil
    int sys_ftruncate(int fd, int64_t size) noexcept nogil
    int sys_fallocate(int fd, int mode, int64_t offset, int64_t size) noexcept nogil
    int sys_mbind(uint64_t address, uint64_t size, int mode, const uint64_t *nodes, unsigned int flags) noexcept nogil
    int sys_set_mempolicy(int mode, const uint64_t *nodes) noexcept nogil
    int sys_get_mempolicy(uint64_t address, unsigned int flags, int *mode, uint64_t *nodes) noexcept nogil
    int sys_page_nodes(uint64_t count, const uint64_t *addresses, int *nodes) noexcept nogil
    int sys_prctl(int option, uint64_t a, uint64_t b, uint64_t c, uint64_t d) noexcept nogil
    int sys_getcpu(unsigned int *cpu, unsigned int *node) noexcept nogil
    int sys_sched_getcpu() noexcept nogil
    int sys_rseq_cpu() noexcept nogil
    int sys_readable(uint64_t address) noexcept nogil
    int sys_userfaultfd(int flags) noexcept nogil
    int sys_uffd_api(int fd, uint64_t *features) noexcept nogil
    int sys_uffd_register(int fd, uint64_t address, uint64_t size) noexcept nogil
    int64_t sys_uffd_move(int fd, uint64_t target, uint64_t source, uint64_t size) noexcept nogil
    uint64_t symbol_address(const char *name) noexcept nogil

cdef enum:
    NODE_LIMIT = 1024  # the most NUMA nodes a kernel can be built for
    NODE_WORDS = 16  # 64 nodes each

cdef struct Span:
    # A range for process_madvise: the kernel's struct iovec.
    uint64_t start
    uint64_t size
