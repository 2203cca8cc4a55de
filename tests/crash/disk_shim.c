/* Sees, journals and spoils every disk operation of a process below one folder; loaded with LD_PRELOAD.
 *
 * The rule of this file: an operation below the folder is numbered, judged, done and journalled under one lock, so the
 * journal is the true order; everything else passes through untouched. What could change the disk unseen is reported as
 * an escape. The page is proto-notes/crash-testing.md; tests/support/disk_shim.py is the other side of both structs.
 *
 *   DISK_SHIM_ROOT     the folder, absolute, without symbolic links
 *   DISK_SHIM_JOURNAL  file outside the folder that gets the journal; none without it
 *   DISK_SHIM_CONTROL  file that is mapped as `struct control`; whoever maps it, too, orders faults while we run
 *
 * Linux on 64 bits. Operations are done by system calls, so that no other library's idea of them is in between.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind {
    MARK = 1, ESCAPE, OPEN_WRITE, OPEN_READ, OPEN_FOLDER, WRITE, SYNC, RENAME, LINK, UNLINK, RMDIR, MKDIR, TRUNCATE, READ
};
enum action { FAIL = 1, SHORT_THEN_FAIL, KILL_BEFORE, KILL_MIDDLE, KILL_AFTER };
enum verdict { GO, SPOIL, HALF, HALF_AND_DIE, DIE_AFTER };

struct control { /* numbers count from 1, first and last are inclusive */
    uint32_t armed, action, error, hit_kind;
    uint64_t kinds, first, last; /* kinds: bit mask of `enum kind` */
    uint64_t matched, hits, total, escapes;
    char pattern[256], hit_path[1024]; /* fnmatch over the path relative to the folder; empty is any */
};

struct entry { /* head of a journal entry; path, second path and data follow */
    uint32_t size, kind, flags;
    int32_t error;
    uint64_t number, handle;
    int64_t offset;
    uint32_t path_size, path2_size, data_size, thread;
};

struct handle { /* an open file description below the folder, shared by its duplicates */
    uint64_t id;
    int references;
    char path[];
};

struct call {
    enum kind kind;
    uint32_t flags;
    uint64_t handle;
    int64_t offset;
    const char *path, *path2;
    const struct iovec *data;
    int pieces;
};

#define HANDLES 65536
static struct handle *handles[HANDLES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct control *control;
static struct control no_control;
static char root[PATH_MAX];
static size_t root_size;
static int journal = -1;
static uint64_t handles_made;
static pid_t owner; /* a child of vfork shares our memory and must not change it */
static long (*real_syscall)(long, ...);

#define raw(number, ...) real_syscall(number, __VA_ARGS__)

static void lock_all(void) { pthread_mutex_lock(&lock); }
static void unlock_all(void) { pthread_mutex_unlock(&lock); }
static void unlock_child(void) { owner = getpid(); pthread_mutex_unlock(&lock); }

static void begin(void) {
    if (real_syscall) return;
    real_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    control = &no_control;
    owner = getpid();
    const char *folder = getenv("DISK_SHIM_ROOT"), *to = getenv("DISK_SHIM_JOURNAL"), *orders = getenv("DISK_SHIM_CONTROL");
    if (!folder) return;
    strncpy(root, folder, sizeof root - 1);
    root_size = strlen(root);
    pthread_atfork(lock_all, unlock_all, unlock_child);
    if (to) {
        int fd = raw(SYS_openat, AT_FDCWD, to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        journal = raw(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 900); /* out of the way of programs that count on low numbers */
        raw(SYS_close, fd);
    }
    if (orders) {
        int fd = raw(SYS_openat, AT_FDCWD, orders, O_RDWR | O_CLOEXEC);
        void *at = (void *)raw(SYS_mmap, NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (at == MAP_FAILED) abort();
        control = at;
        raw(SYS_close, fd);
    }
}
__attribute__((constructor)) static void constructed(void) { begin(); }

static struct handle *handle_of(int fd) {
    return root_size && fd >= 0 && fd < HANDLES && handles[fd] && getpid() == owner ? handles[fd] : NULL;
}

/* Write where `path` lies below the folder, "" being the folder itself, and return whether it does. */
static bool locate(int folder, const char *path, char *where) {
    char full[2 * PATH_MAX], clean[2 * PATH_MAX], start[PATH_MAX] = "";
    begin();
    if (!root_size || !path || getpid() != owner) return false;
    if (path[0] != '/' && folder == AT_FDCWD && raw(SYS_getcwd, start, sizeof start) < 0) return false;
    if (path[0] != '/' && folder != AT_FDCWD) {
        char name[64];
        snprintf(name, sizeof name, "/proc/self/fd/%d", folder);
        if (raw(SYS_readlinkat, AT_FDCWD, name, start, sizeof start - 1) < 0) return false;
    }
    snprintf(full, sizeof full, "%s/%s", start, path);
    size_t size = 0;
    for (char *rest = full, *part; (part = strtok_r(rest, "/", &rest));) {
        if (!strcmp(part, ".")) continue;
        if (!strcmp(part, "..")) {
            while (size && clean[--size] != '/') {}
            continue;
        }
        size += sprintf(clean + size, "/%s", part);
    }
    clean[size] = 0;
    if (strncmp(clean, root, root_size) || (clean[root_size] && clean[root_size] != '/')) return false;
    strcpy(where, clean + root_size + (clean[root_size] == '/'));
    return true;
}

static size_t bytes_of(const struct iovec *data, int pieces) {
    size_t size = 0;
    for (int i = 0; i < pieces; i++) size += data[i].iov_len;
    return size;
}

/* Write `data` cut to `limit` bytes into `out`; return how many pieces that are. */
static int cut(const struct iovec *data, int pieces, size_t limit, struct iovec *out) {
    int count = 0;
    for (int i = 0; i < pieces && limit; i++) {
        size_t size = data[i].iov_len < limit ? data[i].iov_len : limit;
        if (!size) continue;
        out[count++] = (struct iovec){data[i].iov_base, size};
        limit -= size;
    }
    return count;
}

static void note(const struct call *call, int error, size_t written) {
    if (journal < 0) return;
    const char *path = call->path ? call->path : "", *path2 = call->path2 ? call->path2 : "";
    struct iovec out[4 + IOV_MAX];
    struct entry entry = {
        .kind = call->kind, .flags = call->flags, .error = error, .number = control->total, .handle = call->handle,
        .offset = call->offset, .path_size = strlen(path), .path2_size = strlen(path2), .data_size = written,
        .thread = raw(SYS_gettid, 0),
    };
    entry.size = sizeof entry + entry.path_size + entry.path2_size + entry.data_size;
    out[0] = (struct iovec){&entry, sizeof entry};
    out[1] = (struct iovec){(void *)path, entry.path_size};
    out[2] = (struct iovec){(void *)path2, entry.path2_size};
    struct iovec *next = out;
    int count = 3 + cut(call->data, call->pieces, written, out + 3);
    for (size_t left = entry.size; left;) {
        ssize_t done = raw(SYS_writev, journal, next, count < IOV_MAX ? count : IOV_MAX);
        if (done < 0) abort();
        left -= done;
        for (; count && (size_t)done >= next->iov_len; next++, count--) done -= next->iov_len;
        if (count) *next = (struct iovec){(char *)next->iov_base + done, next->iov_len - done};
    }
}

static void die(void) {
    raw(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

static enum verdict judge(const struct call *call) {
    struct control *c = control;
    if (call->kind != READ && call->kind != OPEN_READ) c->total++;
    if (!c->armed || !(c->kinds >> call->kind & 1)) return GO;
    bool meant = !c->pattern[0] || !fnmatch(c->pattern, call->path, 0) ||
        (call->path2 && !fnmatch(c->pattern, call->path2, 0));
    if (!meant || ++c->matched < c->first || c->matched > c->last) return GO;
    if (!c->hits++) {
        c->hit_kind = call->kind;
        snprintf(c->hit_path, sizeof c->hit_path, "%s", call->path);
    }
    bool divisible = bytes_of(call->data, call->pieces) > 1;
    switch ((enum action)c->action) {
    case SHORT_THEN_FAIL: return c->hits == 1 && divisible ? HALF : SPOIL;
    case KILL_MIDDLE: if (divisible) return HALF_AND_DIE; /* fall through */
    case KILL_BEFORE: die(); /* fall through */
    case KILL_AFTER: return DIE_AFTER;
    default: return SPOIL;
    }
}

static enum verdict enter(const struct call *call) {
    pthread_mutex_lock(&lock);
    return judge(call);
}

static long leave(const struct call *call, enum verdict verdict, long result) {
    int error = errno;
    note(call, result < 0 ? error : 0, result > 0 && call->data ? result : 0);
    if (verdict == DIE_AFTER || verdict == HALF_AND_DIE) die();
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

static long spoilt(void) { errno = control->error; return -1; }

#define RUN(call, operation) ({ \
    enum verdict verdict = enter(&call); \
    leave(&call, verdict, verdict == SPOIL ? spoilt() : (operation)); })

static void escaped(const char *what, const char *path) {
    struct iovec name = {(void *)what, strlen(what)};
    struct call call = {.kind = ESCAPE, .path = path, .data = &name, .pieces = 1};
    int error = errno;
    pthread_mutex_lock(&lock);
    control->escapes++;
    note(&call, 0, name.iov_len);
    pthread_mutex_unlock(&lock);
    errno = error;
}

/* For the workload: put a mark of its own into the journal. */
void disk_shim_mark(const void *text, size_t size) {
    struct iovec data = {(void *)text, size};
    struct call call = {.kind = MARK, .data = &data, .pieces = 1};
    begin();
    pthread_mutex_lock(&lock);
    note(&call, 0, size);
    pthread_mutex_unlock(&lock);
}

static void forget(int fd) {
    if (!handles[fd]) return;
    if (!--handles[fd]->references) free(handles[fd]);
    handles[fd] = NULL;
}

static void share(int from, int to) {
    if (to < 0 || to >= HANDLES) return;
    forget(to);
    if ((handles[to] = handles[from])) handles[to]->references++;
}

static int do_open(int folder, const char *path, int flags, mode_t mode) {
    char where[2 * PATH_MAX];
    if (!locate(folder, path, where)) return raw(SYS_openat, folder, path, flags, mode);
    if ((flags & O_TMPFILE) == O_TMPFILE) escaped("O_TMPFILE", where);
    bool changes = (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC);
    struct call call = {.flags = flags, .path = where};
    call.kind = changes ? OPEN_WRITE : flags & O_DIRECTORY ? OPEN_FOLDER : OPEN_READ;
    enum verdict verdict = enter(&call);
    call.handle = (uint64_t)owner << 32 | ++handles_made;
    int fd = verdict == SPOIL ? spoilt() : raw(SYS_openat, folder, path, flags, mode);
    if (fd >= HANDLES) abort();
    if (fd >= 0) {
        forget(fd);
        handles[fd] = malloc(sizeof(struct handle) + strlen(where) + 1);
        *handles[fd] = (struct handle){.id = call.handle, .references = 1};
        strcpy(handles[fd]->path, where);
    }
    return leave(&call, verdict, fd);
}

#define MODE(flags) ({ \
    mode_t mode = 0; \
    if ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE) { \
        va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); } \
    mode; })
int open(const char *p, int flags, ...) { return do_open(AT_FDCWD, p, flags, MODE(flags)); }
int open64(const char *p, int flags, ...) { return do_open(AT_FDCWD, p, flags, MODE(flags)); }
int openat(int d, const char *p, int flags, ...) { return do_open(d, p, flags, MODE(flags)); }
int openat64(int d, const char *p, int flags, ...) { return do_open(d, p, flags, MODE(flags)); }
int __open_2(const char *p, int flags) { return do_open(AT_FDCWD, p, flags, 0); }
int __open64_2(const char *p, int flags) { return do_open(AT_FDCWD, p, flags, 0); }
int __openat_2(int d, const char *p, int flags) { return do_open(d, p, flags, 0); }
int __openat64_2(int d, const char *p, int flags) { return do_open(d, p, flags, 0); }
int creat(const char *p, mode_t mode) { return do_open(AT_FDCWD, p, O_WRONLY | O_CREAT | O_TRUNC, mode); }
int creat64(const char *p, mode_t mode) { return do_open(AT_FDCWD, p, O_WRONLY | O_CREAT | O_TRUNC, mode); }

/* `at` is -1 for the file's own position. */
static ssize_t do_write(int fd, const struct iovec *data, int pieces, off_t at) {
    begin();
    struct handle *handle = handle_of(fd);
    if (!handle) return at < 0 ? raw(SYS_writev, fd, data, pieces) : raw(SYS_pwritev, fd, data, pieces, at, 0);
    struct call call = {
        .kind = WRITE, .handle = handle->id, .path = handle->path, .data = data, .pieces = pieces, .offset = at};
    struct iovec half[IOV_MAX];
    enum verdict verdict = enter(&call);
    if (verdict == HALF || verdict == HALF_AND_DIE) {
        pieces = cut(data, pieces, bytes_of(data, pieces) / 2, half);
        data = half;
    }
    ssize_t done = verdict == SPOIL ? spoilt()
        : at < 0 ? raw(SYS_writev, fd, data, pieces) : raw(SYS_pwritev, fd, data, pieces, at, 0);
    if (at < 0 && done >= 0) call.offset = raw(SYS_lseek, fd, 0, SEEK_CUR) - done;
    return leave(&call, verdict, done);
}

#define ONE(bytes, size) &(struct iovec){(void *)(bytes), size}, 1
ssize_t write(int fd, const void *bytes, size_t size) { return do_write(fd, ONE(bytes, size), -1); }
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) { return do_write(fd, ONE(bytes, size), at); }
ssize_t pwrite64(int fd, const void *bytes, size_t size, off_t at) { return do_write(fd, ONE(bytes, size), at); }
ssize_t writev(int fd, const struct iovec *data, int pieces) { return do_write(fd, data, pieces, -1); }
ssize_t pwritev(int fd, const struct iovec *data, int pieces, off_t at) { return do_write(fd, data, pieces, at); }
ssize_t pwritev64(int fd, const struct iovec *data, int pieces, off_t at) { return do_write(fd, data, pieces, at); }

/* Reads may fail, too, and are not journalled. */
#define READ_OR(fd, operation) ({ \
    begin(); \
    struct handle *handle = handle_of(fd); \
    enum verdict verdict = GO; \
    if (handle && control->armed) { \
        struct call call = {.kind = READ, .path = handle->path}; \
        verdict = enter(&call); \
        pthread_mutex_unlock(&lock); \
    } \
    verdict == GO ? (operation) : spoilt(); })
ssize_t read(int fd, void *to, size_t size) { return READ_OR(fd, raw(SYS_read, fd, to, size)); }
ssize_t pread(int fd, void *to, size_t size, off_t at) { return READ_OR(fd, raw(SYS_pread64, fd, to, size, at)); }
ssize_t pread64(int fd, void *to, size_t size, off_t at) { return READ_OR(fd, raw(SYS_pread64, fd, to, size, at)); }

static int on_handle(int fd, enum kind kind, int64_t size, long system_call) {
    begin();
    struct handle *handle = handle_of(fd);
    if (!handle) return raw(system_call, fd, size);
    struct call call = {.kind = kind, .handle = handle->id, .path = handle->path, .offset = size};
    return RUN(call, raw(system_call, fd, size));
}
int fsync(int fd) { return on_handle(fd, SYNC, 0, SYS_fsync); }
int fdatasync(int fd) { return on_handle(fd, SYNC, 0, SYS_fdatasync); }
int ftruncate(int fd, off_t size) { return on_handle(fd, TRUNCATE, size, SYS_ftruncate); }
int ftruncate64(int fd, off_t size) { return on_handle(fd, TRUNCATE, size, SYS_ftruncate); }

static int on_names(enum kind kind, int d1, const char *p1, int d2, const char *p2, int flags, long system_call) {
    char from[2 * PATH_MAX], to[2 * PATH_MAX];
    bool inside = locate(d1, p1, from), both = locate(d2, p2, to);
    if (inside != both) escaped("a name that crosses the folder's border", inside ? from : to);
    if (!inside || !both) return raw(system_call, d1, p1, d2, p2, flags);
    struct call call = {.kind = kind, .flags = flags, .path = from, .path2 = to};
    return RUN(call, raw(system_call, d1, p1, d2, p2, flags));
}
int rename(const char *a, const char *b) { return on_names(RENAME, AT_FDCWD, a, AT_FDCWD, b, 0, SYS_renameat2); }
int renameat(int d, const char *a, int e, const char *b) { return on_names(RENAME, d, a, e, b, 0, SYS_renameat2); }
int renameat2(int d, const char *a, int e, const char *b, unsigned f) { return on_names(RENAME, d, a, e, b, f, SYS_renameat2); }
int link(const char *a, const char *b) { return on_names(LINK, AT_FDCWD, a, AT_FDCWD, b, 0, SYS_linkat); }
int linkat(int d, const char *a, int e, const char *b, int f) { return on_names(LINK, d, a, e, b, f, SYS_linkat); }

static int on_name(enum kind kind, int folder, const char *path, int argument, long system_call) {
    char where[2 * PATH_MAX];
    if (!locate(folder, path, where)) return raw(system_call, folder, path, argument);
    struct call call = {.kind = kind, .path = where};
    return RUN(call, raw(system_call, folder, path, argument));
}
int mkdir(const char *p, mode_t mode) { return on_name(MKDIR, AT_FDCWD, p, mode, SYS_mkdirat); }
int mkdirat(int d, const char *p, mode_t mode) { return on_name(MKDIR, d, p, mode, SYS_mkdirat); }
int rmdir(const char *p) { return on_name(RMDIR, AT_FDCWD, p, AT_REMOVEDIR, SYS_unlinkat); }
int unlink(const char *p) { return on_name(UNLINK, AT_FDCWD, p, 0, SYS_unlinkat); }
int unlinkat(int d, const char *p, int f) { return on_name(f & AT_REMOVEDIR ? RMDIR : UNLINK, d, p, f, SYS_unlinkat); }
int remove(const char *p) { int result = unlink(p); return result && errno == EISDIR ? rmdir(p) : result; }

int close(int fd) {
    begin();
    if (!handle_of(fd)) return raw(SYS_close, fd);
    pthread_mutex_lock(&lock);
    forget(fd);
    int result = raw(SYS_close, fd), error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

static int do_dup(int fd, long system_call, int a, int b) {
    begin();
    int to = raw(system_call, fd, a, b), error = errno;
    if (to != fd && to >= 0 && (handle_of(fd) || handle_of(to))) {
        pthread_mutex_lock(&lock);
        share(fd, to);
        pthread_mutex_unlock(&lock);
    }
    errno = error;
    return to;
}
int dup(int fd) { return do_dup(fd, SYS_dup, 0, 0); }
int dup2(int fd, int to) { return fd == to ? fcntl(fd, F_GETFD) < 0 ? -1 : to : do_dup(fd, SYS_dup3, to, 0); }
int dup3(int fd, int to, int flags) { return do_dup(fd, SYS_dup3, to, flags); }

static int do_fcntl(int fd, int command, long argument) {
    if (command == F_DUPFD || command == F_DUPFD_CLOEXEC) return do_dup(fd, SYS_fcntl, command, argument);
    begin();
    return raw(SYS_fcntl, fd, command, argument);
}
#define ARGUMENT(last) ({ va_list rest; va_start(rest, last); long value = va_arg(rest, long); va_end(rest); value; })
int fcntl(int fd, int command, ...) { return do_fcntl(fd, command, ARGUMENT(command)); }
int fcntl64(int fd, int command, ...) { return do_fcntl(fd, command, ARGUMENT(command)); }

#include "disk_shim_unseen.h"
