/* Preloaded into a server, writes down what it does to the files below CRASH_DISK_ROOT, in order, to the file
 * CRASH_DISK_LOG: tests/it/crash/disk.rs makes of it what a disk may have after a power cut.
 *
 * A record is its kind, the inode, two numbers, how many bytes follow, and these. sync_file_range is left out: it
 * promises nothing. For Linux with 64 bits, where a call is what its system call is. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { OPENED = 1, CREATED, WRITTEN, RESIZED, SYNC_BEGUN, SYNC_DONE, RENAMED, REMOVED, FOLDER_MADE };

struct record {
    uint64_t kind, inode, first, second, len;
};

#define MOST_FILES 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *root;
static size_t root_len;
static int log_file = -1;
static uint64_t files[MOST_FILES];
static int file_count;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CRASH_DISK_LOG");
    root = getenv("CRASH_DISK_ROOT");
    if (root && path) {
        root_len = strlen(root);
        log_file = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    }
}

static void note(enum kind kind, uint64_t inode, uint64_t first, uint64_t second, const void *bytes, size_t len) {
    struct record record = {kind, inode, first, second, len};
    struct iovec parts[2] = {{&record, sizeof record}, {(void *)bytes, len}};
    size_t whole = sizeof record + len;
    if (syscall(SYS_writev, log_file, parts, 2) != (long)whole)
        abort();
}

static int is_below(const char *path) {
    return log_file >= 0 && path && strncmp(path, root, root_len) == 0 &&
           (path[root_len] == '/' || path[root_len] == 0);
}

static int is_watched(uint64_t inode) {
    for (int i = 0; i < file_count; i++)
        if (files[i] == inode)
            return 1;
    return 0;
}

/* The inode of a file below the root, or 0. */
static uint64_t inode_of(int fd) {
    struct stat stat;
    int error = errno;
    uint64_t inode = 0;
    if (log_file >= 0 && fstat(fd, &stat) == 0 && (S_ISREG(stat.st_mode) || S_ISDIR(stat.st_mode)) &&
        is_watched(stat.st_ino))
        inode = stat.st_ino;
    errno = error;
    return inode;
}

static int open_noted(const char *path, int flags, mode_t mode) {
    if (!is_below(path))
        return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat stat;
    int is_new = (flags & O_CREAT) && lstat(path, &stat) != 0;
    int fd = syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    int error = errno;
    if (fd >= 0 && fstat(fd, &stat) == 0) {
        if (!is_watched(stat.st_ino)) {
            if (file_count == MOST_FILES)
                abort();
            files[file_count++] = stat.st_ino;
        }
        note(is_new ? CREATED : OPENED, stat.st_ino, 0, 0, path, strlen(path));
        if ((flags & O_TRUNC) && !is_new)
            note(RESIZED, stat.st_ino, 0, 0, 0, 0);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        return open_noted(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPEN_AT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        if (is_below(path)) \
            return open_noted(path, flags, mode); \
        return syscall(SYS_openat, folder, path, flags, mode); \
    }
OPEN_AT(openat)
OPEN_AT(openat64)

ssize_t write(int fd, const void *bytes, size_t len) {
    uint64_t inode = inode_of(fd);
    if (!inode)
        return syscall(SYS_write, fd, bytes, len);
    pthread_mutex_lock(&lock);
    ssize_t written = syscall(SYS_write, fd, bytes, len);
    int error = errno;
    if (written > 0)
        note(WRITTEN, inode, lseek(fd, 0, SEEK_CUR) - written, 0, bytes, written);
    pthread_mutex_unlock(&lock);
    errno = error;
    return written;
}

#define PWRITE(name, offset_type) \
    ssize_t name(int fd, const void *bytes, size_t len, offset_type at) { \
        uint64_t inode = inode_of(fd); \
        if (!inode) \
            return syscall(SYS_pwrite64, fd, bytes, len, at); \
        pthread_mutex_lock(&lock); \
        ssize_t written = syscall(SYS_pwrite64, fd, bytes, len, at); \
        int error = errno; \
        if (written > 0) \
            note(WRITTEN, inode, at, 0, bytes, written); \
        pthread_mutex_unlock(&lock); \
        errno = error; \
        return written; \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

/* Nobody writes files like that so far; if somebody does, the log must not miss it. */
ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (inode_of(fd))
        abort();
    return syscall(SYS_writev, fd, parts, count);
}

#define RESIZE(name, offset_type) \
    int name(int fd, offset_type len) { \
        uint64_t inode = inode_of(fd); \
        if (!inode) \
            return syscall(SYS_ftruncate, fd, len); \
        pthread_mutex_lock(&lock); \
        int outcome = syscall(SYS_ftruncate, fd, len); \
        int error = errno; \
        if (outcome == 0) \
            note(RESIZED, inode, len, 0, 0, 0); \
        pthread_mutex_unlock(&lock); \
        errno = error; \
        return outcome; \
    }
RESIZE(ftruncate, off_t)
RESIZE(ftruncate64, off64_t)

/* Only what was written before a sync began is durable when it is done. */
#define SYNC(name, number) \
    int name(int fd) { \
        uint64_t inode = inode_of(fd); \
        if (!inode) \
            return syscall(number, fd); \
        uint64_t thread = syscall(SYS_gettid); \
        pthread_mutex_lock(&lock); \
        note(SYNC_BEGUN, inode, thread, 0, 0, 0); \
        pthread_mutex_unlock(&lock); \
        int outcome = syscall(number, fd); \
        int error = errno; \
        if (outcome == 0) { \
            pthread_mutex_lock(&lock); \
            note(SYNC_DONE, inode, thread, 0, 0, 0); \
            pthread_mutex_unlock(&lock); \
        } \
        errno = error; \
        return outcome; \
    }
SYNC(fsync, SYS_fsync)
SYNC(fdatasync, SYS_fdatasync)

int rename(const char *from, const char *to) {
    if (!is_below(from) && !is_below(to))
        return syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
    pthread_mutex_lock(&lock);
    int outcome = syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
    int error = errno;
    if (outcome == 0) {
        char both[8192];
        size_t from_len = strlen(from), to_len = strlen(to);
        if (from_len + to_len > sizeof both)
            abort();
        memcpy(both, from, from_len);
        memcpy(both + from_len, to, to_len);
        note(RENAMED, 0, from_len, to_len, both, from_len + to_len);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return outcome;
}

static int remove_noted(const char *path, int flags) {
    if (!is_below(path))
        return syscall(SYS_unlinkat, AT_FDCWD, path, flags);
    pthread_mutex_lock(&lock);
    struct stat stat;
    uint64_t inode = lstat(path, &stat) == 0 ? stat.st_ino : 0;
    int outcome = syscall(SYS_unlinkat, AT_FDCWD, path, flags);
    int error = errno;
    /* The next file with its number may be anybody's. */
    for (int i = 0; outcome == 0 && i < file_count; i++)
        if (files[i] == inode)
            files[i] = files[--file_count];
    if (outcome == 0)
        note(REMOVED, 0, 0, 0, path, strlen(path));
    pthread_mutex_unlock(&lock);
    errno = error;
    return outcome;
}

int unlink(const char *path) {
    return remove_noted(path, 0);
}

int rmdir(const char *path) {
    return remove_noted(path, AT_REMOVEDIR);
}

int mkdir(const char *path, mode_t mode) {
    if (!is_below(path))
        return syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    pthread_mutex_lock(&lock);
    int outcome = syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    int error = errno;
    if (outcome == 0)
        note(FOLDER_MADE, 0, 0, 0, path, strlen(path));
    pthread_mutex_unlock(&lock);
    errno = error;
    return outcome;
}
