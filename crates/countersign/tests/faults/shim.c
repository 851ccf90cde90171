/* Stands between the server and its C library (LD_PRELOAD), and does what the control file says.

   It concerns only files below SHIM_PLACE, and the wall clock. Every field of the control file is a 64-bit number; its
   order is that of shim.rs. Both sides have the file mapped or write to it, so that a change counts at once. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct control {
    _Atomic int64_t clock_offset; /* seconds added to the wall clock */
    _Atomic int64_t write_error;  /* errno of every write; 0 lets it pass */
    _Atomic int64_t sync_error;   /* the same for fsync */
    _Atomic int64_t open_error;   /* the same for opening to write */
    _Atomic int64_t hang;         /* while 1, fsync does not return */
    _Atomic int64_t hanging;      /* out: how many wait because of that */
    _Atomic int64_t touches;      /* out: how many reads, writes, syncs and opens of the store there were */
    _Atomic int64_t hang_keys;    /* while 1, reading a file of an issuer's keys does not return */
};

static struct control *control;
static char place[PATH_MAX];

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("SHIM_CONTROL"), *below = getenv("SHIM_PLACE");
    if (!path || !below || !realpath(below, place))
        abort();
    int file = open(path, O_RDWR | O_CLOEXEC);
    void *map = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file < 0 || map == MAP_FAILED)
        abort();
    close(file);
    control = map;
}

static void *next(const char *name) {
    void *function = dlsym(RTLD_NEXT, name);
    if (!function)
        abort();
    return function;
}

static int is_below(const char *path) {
    size_t length = strlen(place);
    return strncmp(path, place, length) == 0 && path[length] == '/';
}

/* Events are in a file of their own, which has its faults and is not the store. */
static void count(const char *path) {
    if (!strstr(path, "-events.db"))
        control->touches++;
}

static int concerns(int file, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return is_below(path);
}

/* Counts the call, and says whether it has to fail. */
static int fails(int file, int64_t error) {
    char path[PATH_MAX];
    if (!control || !concerns(file, path))
        return 0;
    count(path);
    if (!error)
        return 0;
    errno = (int)error;
    return 1;
}

/* The function behind this one. */
#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))next(#name)

ssize_t pread64(int file, void *to, size_t size, off_t at) {
    REAL(pread64);
    return fails(file, 0) ? -1 : real(file, to, size, at);
}

ssize_t pwrite64(int file, const void *from, size_t size, off_t at) {
    REAL(pwrite64);
    return fails(file, control->write_error) ? -1 : real(file, from, size, at);
}

int ftruncate64(int file, off_t size) {
    REAL(ftruncate64);
    return fails(file, control->write_error) ? -1 : real(file, size);
}

static void wait_while(_Atomic int64_t *hang) {
    control->hanging++;
    while (*hang)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    control->hanging--;
}

ssize_t read(int file, void *to, size_t size) {
    REAL(read);
    char path[PATH_MAX];
    if (control && control->hang_keys && concerns(file, path) && strstr(path, "/jwks.json"))
        wait_while(&control->hang_keys);
    return real(file, to, size);
}

static int sync_with(int (*real)(int), int file) {
    if (fails(file, control->sync_error))
        return -1;
    char path[PATH_MAX];
    if (control->hang && concerns(file, path))
        wait_while(&control->hang);
    return real(file);
}

int fsync(int file) {
    REAL(fsync);
    return sync_with(real, file);
}

int fdatasync(int file) {
    REAL(fdatasync);
    return sync_with(real, file);
}

static int open_with(int (*real)(const char *, int, ...), const char *path, int flags, mode_t mode) {
    char whole[PATH_MAX];
    if (control && is_below(realpath(path, whole) ? whole : path)) {
        count(path);
        if (control->open_error && (flags & (O_WRONLY | O_RDWR | O_CREAT))) {
            errno = (int)control->open_error;
            return -1;
        }
    }
    return real(path, flags, mode);
}

#define MODE(flags) mode_t mode = 0; \
    if (flags & O_CREAT) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }

int open(const char *path, int flags, ...) {
    REAL(open);
    MODE(flags);
    return open_with(real, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    REAL(open64);
    MODE(flags);
    return open_with(real, path, flags, mode);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    int result = real(clock, now);
    if (control && result == 0 && clock == CLOCK_REALTIME)
        now->tv_sec += control->clock_offset;
    return result;
}
