/*
 * Injects file system faults: loaded into a program with LD_PRELOAD, it makes calls on files fail.
 *
 * NIIMPI_FAULTS is a list of faults, separated by commas: CALL:ERROR:AFTER:PART
 *   CALL   read, write, fsync, rename, symlink or open
 *   ERROR  an errno number, with x1 after it for the first such call only; or a delay such as `60ms`; or
 *          `wait`: the call creates the file $NIIMPI_FAULT_GO.held and waits until the file $NIIMPI_FAULT_GO
 *          exists
 *   AFTER  bytes of a file that succeed first (read and write), 0 for none
 *   PART   a part of the file's path, or its end if PART ends with `$`
 * A write that crosses the limit is shortened, as on a disk that becomes full.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

struct fault {
    char call[16], error[16], part[256];
    long after;
    int spent;
};

static struct fault faults[8];
static int count = -1;

static void load(void) {
    if (count >= 0) return;
    count = 0;
    const char *text = getenv("NIIMPI_FAULTS");
    while (text && *text && count < 8) {
        struct fault *fault = &faults[count];
        int found = sscanf(text, "%15[^:]:%15[^:]:%ld:%255[^,]", fault->call, fault->error, &fault->after,
                           fault->part);
        if (found == 4) count++;
        text = strchr(text, ',');
        if (text) text++;
    }
}

static int is_part(const char *part, const char *path) {
    size_t wanted = strlen(part), len = strlen(path);
    if (!wanted || part[wanted - 1] != '$') return strstr(path, part) != NULL;
    wanted--;
    return len >= wanted && !strncmp(path + len - wanted, part, wanted);
}

/* The fault for this call on this path, or NULL. */
static struct fault *find(const char *call, const char *path) {
    load();
    for (int i = 0; i < count; i++)
        if (!strcmp(faults[i].call, call) && is_part(faults[i].part, path)) return &faults[i];
    return NULL;
}

static struct fault *find_open(const char *call, int file) {
    load();
    if (!count) return NULL;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t len = readlink(link, path, sizeof path - 1);
    if (len < 0) return NULL;
    path[len] = 0;
    return find(call, path);
}

/* Fails with the fault's error, or waits and lets the call pass. */
static int strike(struct fault *fault) {
    if (strstr(fault->error, "x1") && fault->spent++) return 0;
    if (strstr(fault->error, "ms")) {
        usleep((useconds_t)atoi(fault->error) * 1000);
        return 0;
    }
    if (strcmp(fault->error, "wait")) {
        errno = atoi(fault->error);
        return 1;
    }
    const char *go = getenv("NIIMPI_FAULT_GO");
    if (!go) return 0;
    char held[PATH_MAX];
    snprintf(held, sizeof held, "%s.held", go);
    int file = creat(held, 0666);
    if (file >= 0) close(file);
    /* With a time limit, so that a test that never creates the file leaves no process behind. */
    for (int i = 0; access(go, F_OK) && i < 18000; i++) usleep(10000);
    return 0;
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int file, const void *bytes, size_t len) {
    REAL(write);
    struct fault *fault = find_open("write", file);
    if (fault) {
        struct stat stat;
        long left = fstat(file, &stat) ? 0 : fault->after - (long)stat.st_size;
        if (left <= 0) {
            if (strike(fault)) return -1;
        } else if ((size_t)left < len) {
            len = (size_t)left;
        }
    }
    return real(file, bytes, len);
}

ssize_t read(int file, void *bytes, size_t len) {
    REAL(read);
    struct fault *fault = find_open("read", file);
    if (fault && lseek(file, 0, SEEK_CUR) >= fault->after && strike(fault)) return -1;
    return real(file, bytes, len);
}

int fsync(int file) {
    REAL(fsync);
    struct fault *fault = find_open("fsync", file);
    return fault && strike(fault) ? -1 : real(file);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    struct fault *fault = find("rename", to);
    return fault && strike(fault) ? -1 : real(from, to);
}

int symlink(const char *target, const char *path) {
    REAL(symlink);
    struct fault *fault = find("symlink", path);
    return fault && strike(fault) ? -1 : real(target, path);
}

int open64(const char *path, int flags, ...) {
    REAL(open64);
    va_list rest;
    va_start(rest, flags);
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0;
    va_end(rest);
    struct fault *fault = find("open", path);
    return fault && strike(fault) ? -1 : real(path, flags, mode);
}
