/* The end of disk_shim.c: calls that could change the disk and are not journalled.
 *
 * The rule of this file: each is done and reported as an escape, so that a run in which one happened is known to be
 * modelled wrongly.
 */
/* What nobody below the folder uses today. It is done, and reported: then it must be modelled. */
#define UNSEEN(fd, what) ({ struct handle *handle = handle_of(fd); begin(); if (handle) escaped(what, handle->path); })
static void unseen_path(const char *path, const char *what) {
    char where[2 * PATH_MAX];
    if (locate(AT_FDCWD, path, where)) escaped(what, where);
}
ssize_t copy_file_range(int in, off_t *from, int out, off_t *to, size_t size, unsigned flags) {
    UNSEEN(out, "copy_file_range");
    return raw(SYS_copy_file_range, in, from, out, to, size, flags);
}
ssize_t sendfile(int out, int in, off_t *at, size_t size) { UNSEEN(out, "sendfile"); return raw(SYS_sendfile, out, in, at, size); }
ssize_t sendfile64(int out, int in, off_t *at, size_t size) { return sendfile(out, in, at, size); }
ssize_t splice(int in, off_t *from, int out, off_t *to, size_t size, unsigned flags) {
    UNSEEN(out, "splice");
    return raw(SYS_splice, in, from, out, to, size, flags);
}
ssize_t pwritev2(int fd, const struct iovec *data, int pieces, off_t at, int flags) {
    UNSEEN(fd, "pwritev2");
    return raw(SYS_pwritev2, fd, data, pieces, at, 0, flags);
}
int fallocate(int fd, int mode, off_t at, off_t size) { UNSEEN(fd, "fallocate"); return raw(SYS_fallocate, fd, mode, at, size); }
int fallocate64(int fd, int mode, off_t at, off_t size) { return fallocate(fd, mode, at, size); }
int posix_fallocate(int fd, off_t at, off_t size) { return fallocate(fd, 0, at, size) ? errno : 0; }
int posix_fallocate64(int fd, off_t at, off_t size) { return posix_fallocate(fd, at, size); }
int truncate(const char *path, off_t size) { unseen_path(path, "truncate"); return raw(SYS_truncate, path, size); }
int truncate64(const char *path, off_t size) { return truncate(path, size); }
int symlink(const char *to, const char *path) { unseen_path(path, "symlink"); return raw(SYS_symlinkat, to, AT_FDCWD, path); }
void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t from) {
    if (protection & PROT_WRITE && (flags & MAP_TYPE) != MAP_PRIVATE) UNSEEN(fd, "mmap");
    begin();
    return (void *)raw(SYS_mmap, at, size, protection, flags, fd, from);
}
void *mmap64(void *at, size_t size, int p, int flags, int fd, off_t from) { return mmap(at, size, p, flags, fd, from); }
FILE *fopen(const char *path, const char *mode) {
    if (strpbrk(mode, "wa+")) unseen_path(path, "fopen");
    return ((FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, "fopen"))(path, mode);
}
FILE *fopen64(const char *path, const char *mode) { return fopen(path, mode); }

/* Rust calls some system calls by number. Those that change a disk are reported; io_uring would hide all others. */
long syscall(long number, ...) {
    long a[6];
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(rest, long);
    va_end(rest);
    begin();
    static const long changing[] = {
        SYS_openat, SYS_openat2, SYS_write, SYS_writev, SYS_pwrite64, SYS_pwritev, SYS_pwritev2, SYS_fsync,
        SYS_fdatasync, SYS_renameat2, SYS_linkat, SYS_unlinkat, SYS_mkdirat, SYS_ftruncate, SYS_truncate, SYS_fallocate,
        SYS_copy_file_range, SYS_sendfile, SYS_splice, SYS_io_uring_setup,
    };
    if (root_size) {
        char name[32];
        snprintf(name, sizeof name, "syscall %ld", number);
        for (size_t i = 0; i < sizeof changing / sizeof *changing; i++)
            if (number == changing[i]) escaped(name, "");
    }
    return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
