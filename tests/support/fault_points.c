/* Counts the calls by which a process changes files below one folder, and breaks one of them: loaded by LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { BEFORE = 1, AFTER = 2, REFUSE = 3 };
static char root[PATH_MAX];
static size_t root_length;
static volatile long *count, at;
static int mode, refusal;

/* at: the call to break, counted from 1; 0: none. counted: where the calls are counted, in shared memory. */
void fault_arm(const char *below, long which, int how, int code, long *counted)
{
    snprintf(root, sizeof root, "%s", below);
    root_length = strlen(root);
    at = which, mode = how, refusal = code, count = counted;
}

static int is_below(int folder, const char *path)
{
    char whole[2 * PATH_MAX], link[64];
    if (!count || !path) return 0;
    if (path[0] != '/') {
        ssize_t got;
        if (folder == AT_FDCWD) { if (!getcwd(whole, PATH_MAX)) return 0; }
        else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            got = readlink(link, whole, PATH_MAX - 1);
            if (got < 0) return 0;
            whole[got] = 0;
        }
        strncat(whole, "/", 2); strncat(whole, path, PATH_MAX - 1);
        path = whole;
    }
    return !strncmp(path, root, root_length);
}

static int is_below_fd(int fd)
{
    char link[64], whole[PATH_MAX];
    ssize_t got;
    if (!count) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    got = readlink(link, whole, sizeof whole - 1);
    if (got < 0) return 0;
    whole[got] = 0;
    return !strncmp(whole, root, root_length);
}

static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

#define CALL(type, name, params, below, args)                                  \
    type name params                                                           \
    {                                                                          \
        static type (*real) params;                                            \
        if (!real) real = dlsym(RTLD_NEXT, #name);                             \
        if (!(below) || __sync_add_and_fetch(count, 1) != at) return real args; \
        if (mode == REFUSE) { errno = refusal; return -1; }                    \
        if (mode == BEFORE) die();                                             \
        (void)!real args;                                                      \
        die();                                                                 \
        return -1;                                                             \
    }

#define WRITES (flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR))
#define OPEN(name)                                                             \
    int name(const char *path, int flags, ...)                                 \
    {                                                                          \
        static int (*real)(const char *, int, ...);                            \
        va_list rest; va_start(rest, flags);                                   \
        mode_t bits = va_arg(rest, mode_t); va_end(rest);                      \
        if (!real) real = dlsym(RTLD_NEXT, #name);                             \
        if (!WRITES || !is_below(AT_FDCWD, path) || __sync_add_and_fetch(count, 1) != at) \
            return real(path, flags, bits);                                    \
        if (mode == REFUSE) { errno = refusal; return -1; }                    \
        if (mode == AFTER) real(path, flags, bits);                            \
        die(); return -1;                                                      \
    }
#define OPENAT(name)                                                           \
    int name(int folder, const char *path, int flags, ...)                     \
    {                                                                          \
        static int (*real)(int, const char *, int, ...);                       \
        va_list rest; va_start(rest, flags);                                   \
        mode_t bits = va_arg(rest, mode_t); va_end(rest);                      \
        if (!real) real = dlsym(RTLD_NEXT, #name);                             \
        if (!WRITES || !is_below(folder, path) || __sync_add_and_fetch(count, 1) != at) \
            return real(folder, path, flags, bits);                            \
        if (mode == REFUSE) { errno = refusal; return -1; }                    \
        if (mode == AFTER) real(folder, path, flags, bits);                    \
        die(); return -1;                                                      \
    }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)
CALL(ssize_t, write, (int fd, const void *b, size_t n), is_below_fd(fd), (fd, b, n))
CALL(ssize_t, writev, (int fd, const struct iovec *v, int n), is_below_fd(fd), (fd, v, n))
CALL(ssize_t, pwrite, (int fd, const void *b, size_t n, off_t o), is_below_fd(fd), (fd, b, n, o))
CALL(ssize_t, pwrite64, (int fd, const void *b, size_t n, off64_t o), is_below_fd(fd), (fd, b, n, o))
CALL(int, ftruncate, (int fd, off_t n), is_below_fd(fd), (fd, n))
CALL(int, ftruncate64, (int fd, off64_t n), is_below_fd(fd), (fd, n))
CALL(int, fsync, (int fd), is_below_fd(fd), (fd))
CALL(int, rename, (const char *a, const char *b), is_below(AT_FDCWD, b), (a, b))
CALL(int, renameat, (int x, const char *a, int y, const char *b), is_below(y, b), (x, a, y, b))
CALL(int, link, (const char *a, const char *b), is_below(AT_FDCWD, b), (a, b))
CALL(int, linkat, (int x, const char *a, int y, const char *b, int f), is_below(y, b), (x, a, y, b, f))
CALL(int, unlink, (const char *a), is_below(AT_FDCWD, a), (a))
CALL(int, unlinkat, (int x, const char *a, int f), is_below(x, a), (x, a, f))
CALL(int, rmdir, (const char *a), is_below(AT_FDCWD, a), (a))
CALL(int, mkdir, (const char *a, mode_t m), is_below(AT_FDCWD, a), (a, m))
CALL(int, mkdirat, (int x, const char *a, mode_t m), is_below(x, a), (x, a, m))
