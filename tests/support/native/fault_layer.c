/* A disk that fails on purpose: loaded with LD_PRELOAD, it stands between a program and the C library's calls that
 * change files below certain folders, and counts them. At a chosen call it can fail, write less than asked, or end
 * the program; it can also record every call, so that a power cut can be replayed, and let the clock jump.
 *
 * tests/support/campaign/layer.py compiles it and says what it is to do, in these variables:
 *
 *   FAULT_ROOTS   folders, separated by ':'; other files are left alone
 *   FAULT_STATE   a file of 64 bytes that all processes share: calls seen, calls failed, calls of the clock, the time of
 *                 the first that failed
 *   FAULT_KINDS   which calls count: a sum of the numbers of enum kind
 *   FAULT_MODE    count, error, short, kill, hang or record
 *   FAULT_AT      the number of the call, from 1
 *   FAULT_LASTS   1: all later calls fail as well, as on a full disk
 *   FAULT_ERRNO   what a failing call says
 *   FAULT_SLEEP   milliseconds that it takes until a call fails or, with hang, goes on
 *   FAULT_FOR     milliseconds after which nothing fails any more; 0 for no end
 *   FAULT_TARGET  the process that kill ends
 *   FAULT_LOG     the file for the records
 *   FAULT_CLOCK   seconds by which the clock is wrong from its call number FAULT_CLOCK_AT on
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define LONGEST 4096

enum kind { WRITE = 1, ALLOCATE = 2, SYNC = 4, RENAME = 8, CREATE = 16, LINK = 32, REMOVE = 64, CLOSE = 128, READ = 256 };
enum mode { OFF, COUNT, ERROR, SHORT, KILL, HANG, RECORD };

struct state { _Atomic int64_t seen, failed, clock, first; };

static struct state none;
static struct {
    enum mode mode;
    long kinds, at, lasts, error, target, sleep, end, clock, clock_at;
    int log;
    char roots[4096];
    struct state *state;
} armed = {.log = -1, .state = &none};
static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;

static long number(const char *name) {
    const char *text = getenv(name);
    return text == NULL ? 0 : atol(text);
}

/* Read the variables again: in a forked copy they are others than when the library was loaded. */
__attribute__((constructor)) void fault_arm(void) {
    static const char *names[] = {"", "count", "error", "short", "kill", "hang", "record"};
    const char *mode = getenv("FAULT_MODE"), *roots = getenv("FAULT_ROOTS"), *state = getenv("FAULT_STATE");
    armed.mode = OFF;
    armed.clock = 0;
    if (mode == NULL || roots == NULL || state == NULL) return;
    snprintf(armed.roots, sizeof armed.roots, "%s", roots);
    int fd = syscall(SYS_openat, AT_FDCWD, state, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return;
    void *shared = mmap(NULL, 64, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (shared == MAP_FAILED) return;
    armed.state = shared;
    armed.kinds = number("FAULT_KINDS"), armed.at = number("FAULT_AT"), armed.lasts = number("FAULT_LASTS");
    armed.error = number("FAULT_ERRNO"), armed.target = number("FAULT_TARGET");
    armed.sleep = number("FAULT_SLEEP"), armed.end = number("FAULT_FOR");
    armed.clock = number("FAULT_CLOCK"), armed.clock_at = number("FAULT_CLOCK_AT");
    if (getenv("FAULT_LOG") != NULL)
        armed.log = syscall(SYS_openat, AT_FDCWD, getenv("FAULT_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    for (int i = COUNT; i <= RECORD; i++)
        if (strcmp(mode, names[i]) == 0) armed.mode = i;
}

static int below_roots(const char *path) {
    for (const char *root = armed.roots; *root != 0;) {
        size_t length = strcspn(root, ":");
        if (length != 0 && strncmp(path, root, length) == 0 && (path[length] == '/' || path[length] == 0)) return 1;
        root += length + (root[length] == ':');
    }
    return 0;
}

/* The path of an open file, or of a name in an open folder; empty if it is no file. */
static void path_of(int fd, const char *name, char *out) {
    char link[64];
    ssize_t length = 0;
    out[0] = 0;
    if (name != NULL && name[0] == '/') {
        snprintf(out, LONGEST, "%s", name);
        return;
    }
    if (fd == AT_FDCWD)
        snprintf(link, sizeof link, "/proc/self/cwd");
    else
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if ((length = readlink(link, out, LONGEST - 1)) < 0) length = 0;
    out[length] = 0;
    if (name != NULL) snprintf(out + length, LONGEST - length, "/%s", name);
}

static int64_t milliseconds(void) {
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Whether what fails is back by now. */
static int is_back(void) {
    int64_t none_yet = 0, now = milliseconds();
    if (armed.end == 0 || atomic_compare_exchange_strong(&armed.state->first, &none_yet, now)) return 0;
    return now - none_yet >= armed.end;
}

static void take_time(void) {
    struct timespec rest = {armed.sleep / 1000, armed.sleep % 1000 * 1000000};
    while (armed.sleep != 0 && syscall(SYS_nanosleep, &rest, &rest) != 0) {}
}

/* Whether this call fails; with SHORT, whether it is cut. */
static int strikes(enum kind kind, const char *path) {
    if (armed.mode == OFF || !(armed.kinds & kind) || !below_roots(path)) return 0;
    int64_t seen = atomic_fetch_add(&armed.state->seen, 1) + 1;
    if (armed.mode == COUNT || armed.mode == RECORD) return 0;
    if (seen != armed.at && !(armed.lasts && seen > armed.at)) return 0;
    if (is_back()) return 0;
    atomic_fetch_add(&armed.state->failed, 1);
    take_time();
    if (armed.mode == HANG) return 0;
    if (armed.mode == KILL) {
        kill(armed.target, SIGKILL);
        return 0; /* a child of the target goes on */
    }
    errno = armed.error;
    return 1;
}

struct record { uint32_t kind, path, other, pad; uint64_t inode, offset, length; };

static void record(enum kind kind, const char *path, const char *other, int fd, off_t offset, const void *data, size_t length) {
    if (armed.mode != RECORD || armed.log < 0 || !below_roots(path)) return;
    struct stat found = {0};
    if (fd >= 0) syscall(SYS_fstat, fd, &found);
    struct record head = {kind, strlen(path), strlen(other), 0, found.st_ino, offset, length};
    struct iovec parts[4] = {{&head, sizeof head}, {(void *)path, head.path}, {(void *)other, head.other},
                             {(void *)data, data == NULL ? 0 : length}};
    syscall(SYS_writev, armed.log, parts, 4);
}

#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)


static int cut(const char *path, size_t length) { /* a write that is to be short */
    return armed.mode == SHORT && length > 1 && strikes(WRITE, path);
}

ssize_t write(int fd, const void *data, size_t length) {
    REAL(write);
    char path[LONGEST];
    if (armed.mode == OFF) return real(fd, data, length);
    path_of(fd, NULL, path);
    if (cut(path, length)) return real(fd, data, (length + 1) / 2);
    if (armed.mode != SHORT && strikes(WRITE, path)) return -1;
    pthread_mutex_lock(&order);
    off_t at = armed.mode == RECORD ? lseek(fd, 0, SEEK_CUR) : 0;
    ssize_t done = real(fd, data, length);
    if (done > 0) record(WRITE, path, "", fd, at, data, done);
    pthread_mutex_unlock(&order);
    return done;
}

static ssize_t positioned(int fd, const void *data, size_t length, off_t at) {
    char path[LONGEST];
    if (armed.mode == OFF) return syscall(SYS_pwrite64, fd, data, length, at);
    path_of(fd, NULL, path);
    if (cut(path, length)) return syscall(SYS_pwrite64, fd, data, (length + 1) / 2, at);
    if (armed.mode != SHORT && strikes(WRITE, path)) return -1;
    pthread_mutex_lock(&order);
    ssize_t done = syscall(SYS_pwrite64, fd, data, length, at);
    if (done > 0) record(WRITE, path, "", fd, at, data, done);
    pthread_mutex_unlock(&order);
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t at) { return positioned(fd, data, length, at); }
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at) { return positioned(fd, data, length, at); }

/* Copying inside the kernel: refused, so that the program copies through write, which is counted. */
ssize_t sendfile(int out, int in, off_t *at, size_t count) {
    char path[LONGEST];
    path_of(out, NULL, path);
    if (armed.mode != OFF && below_roots(path)) return errno = ENOTSOCK, -1;
    return syscall(SYS_sendfile, out, in, at, count);
}
ssize_t sendfile64(int out, int in, off64_t *at, size_t count) { return sendfile(out, in, (off_t *)at, count); }
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t count, unsigned flags) {
    char path[LONGEST];
    path_of(out, NULL, path);
    if (armed.mode != OFF && below_roots(path)) return errno = EXDEV, -1;
    return syscall(SYS_copy_file_range, in, from, out, to, count, flags);
}

static int resized(int fd, off_t size, int allocates) {
    char path[LONGEST];
    path_of(fd, NULL, path);
    if (strikes(ALLOCATE, path)) return -1;
    int done = allocates ? syscall(SYS_fallocate, fd, 0, 0, size) : syscall(SYS_ftruncate, fd, size);
    if (done == 0) record(ALLOCATE, path, "", fd, size, NULL, 0);
    return done;
}
int ftruncate(int fd, off_t size) { return resized(fd, size, 0); }
int ftruncate64(int fd, off64_t size) { return resized(fd, size, 0); }
/* These two return the error, and do not set it. */
int posix_fallocate(int fd, off_t from, off_t size) { return resized(fd, from + size, 1) == 0 ? 0 : errno; }
int posix_fallocate64(int fd, off64_t from, off64_t size) { return resized(fd, from + size, 1) == 0 ? 0 : errno; }

static int flushed(int fd, int number_of_call) {
    char path[LONGEST];
    path_of(fd, NULL, path);
    if (strikes(SYNC, path)) return -1;
    int done = armed.mode == OFF ? syscall(number_of_call, fd) : 0; /* nothing here needs the real disk */
    if (done == 0) record(SYNC, path, "", fd, 0, NULL, 0);
    return done;
}
int fsync(int fd) { return flushed(fd, SYS_fsync); }
int fdatasync(int fd) { return flushed(fd, SYS_fdatasync); }

static int renamed(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    char path[LONGEST], other[LONGEST];
    path_of(from_folder, from, path), path_of(to_folder, to, other);
    if (strikes(RENAME, path)) return -1;
    pthread_mutex_lock(&order);
    int done = syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
    if (done == 0) record(RENAME, path, other, -1, flags, NULL, 0); /* the flags as its offset */
    pthread_mutex_unlock(&order);
    return done;
}
int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int a, const char *from, int b, const char *to) { return renamed(a, from, b, to, 0); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { return renamed(a, from, b, to, flags); }

static int linked(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    char path[LONGEST], other[LONGEST];
    path_of(from_folder, from, other), path_of(to_folder, to, path);
    if (strikes(LINK, path)) return -1;
    int done = syscall(SYS_linkat, from_folder, from, to_folder, to, flags);
    if (done == 0) record(LINK, path, other, -1, 0, NULL, 0);
    return done;
}
int link(const char *from, const char *to) { return linked(AT_FDCWD, from, AT_FDCWD, to, 0); }
int linkat(int a, const char *from, int b, const char *to, int flags) { return linked(a, from, b, to, flags); }

static int folder_made(int folder, const char *name, mode_t mode) {
    char path[LONGEST];
    path_of(folder, name, path);
    if (strikes(CREATE, path)) return -1;
    int done = syscall(SYS_mkdirat, folder, name, mode);
    if (done == 0) record(CREATE, path, "/", -1, 0, NULL, 0);
    return done;
}
int mkdir(const char *name, mode_t mode) { return folder_made(AT_FDCWD, name, mode); }
int mkdirat(int folder, const char *name, mode_t mode) { return folder_made(folder, name, mode); }

static int removed(int folder, const char *name, int flags) {
    char path[LONGEST];
    path_of(folder, name, path);
    if (strikes(REMOVE, path)) return -1;
    int done = syscall(SYS_unlinkat, folder, name, flags);
    if (done == 0) record(REMOVE, path, "", -1, 0, NULL, 0);
    return done;
}
int unlink(const char *name) { return removed(AT_FDCWD, name, 0); }
int unlinkat(int folder, const char *name, int flags) { return removed(folder, name, flags); }
int rmdir(const char *name) { return removed(AT_FDCWD, name, AT_REMOVEDIR); }

static int opened(int folder, const char *name, int flags, mode_t mode) {
    char path[LONGEST];
    int creates = (flags & O_CREAT) != 0;
    if (armed.mode == OFF || !(creates || (flags & O_TRUNC))) return syscall(SYS_openat, folder, name, flags, mode);
    path_of(folder, name, path);
    if (strikes(CREATE, path)) return -1;
    pthread_mutex_lock(&order);
    int fd = syscall(SYS_openat, folder, name, flags, mode);
    if (fd >= 0) record(CREATE, path, flags & O_TRUNC ? "truncate" : "", fd, 0, NULL, 0);
    pthread_mutex_unlock(&order);
    return fd;
}
#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }
int open(const char *name, int flags, ...) { MODE(flags) return opened(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags) return opened(AT_FDCWD, name, flags | O_LARGEFILE, mode); }
int openat(int folder, const char *name, int flags, ...) { MODE(flags) return opened(folder, name, flags, mode); }
int openat64(int folder, const char *name, int flags, ...) { MODE(flags) return opened(folder, name, flags | O_LARGEFILE, mode); }

/* A network file system says at the end that it could not write; the file is closed all the same. */
int close(int fd) {
    char path[LONGEST];
    if (armed.mode == OFF || !(armed.kinds & CLOSE) || (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY)
        return syscall(SYS_close, fd);
    path_of(fd, NULL, path);
    int fails = strikes(CLOSE, path), done = syscall(SYS_close, fd);
    return fails ? (errno = armed.error, -1) : done;
}

static int read_fails(int fd) {
    char path[LONGEST];
    if (armed.mode == OFF || !(armed.kinds & READ)) return 0;
    path_of(fd, NULL, path);
    return strikes(READ, path);
}
ssize_t read(int fd, void *data, size_t length) {
    return read_fails(fd) ? -1 : syscall(SYS_read, fd, data, length);
}
ssize_t pread64(int fd, void *data, size_t length, off64_t at) {
    return read_fails(fd) ? -1 : syscall(SYS_pread64, fd, data, length, at);
}
ssize_t pread(int fd, void *data, size_t length, off_t at) { return pread64(fd, data, length, at); }
ssize_t preadv64(int fd, const struct iovec *parts, int count, off64_t at) {
    return read_fails(fd) ? -1 : syscall(SYS_preadv, fd, parts, count, at, 0);
}
ssize_t preadv(int fd, const struct iovec *parts, int count, off_t at) { return preadv64(fd, parts, count, at); }

static long jump(void) { /* seconds by which the clock is wrong now */
    if (armed.clock == 0) return 0;
    return atomic_fetch_add(&armed.state->clock, 1) + 1 >= armed.clock_at ? armed.clock : 0;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int done = syscall(SYS_clock_gettime, clock, now);
    if (done == 0 && clock == CLOCK_REALTIME) now->tv_sec += jump();
    return done;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out != NULL) *out = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec found;
    int done = clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec, now->tv_usec = found.tv_nsec / 1000;
    return done;
}
