/* fsync and fdatasync fail (EIO) for files whose path contains a text, after so many milliseconds. The file named by LAB_BAD_DISK says both ("500 /a/path"), and
   may change at any moment. While it is empty they do what they should. Nothing else fails: as far as anybody can see, all that was written can be read. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int is_bad(int file) {
    char bad[256], link[64], path[PATH_MAX];
    const char *said = getenv("LAB_BAD_DISK");
    int words = said ? open(said, O_RDONLY | O_CLOEXEC) : -1;
    if (words < 0) return 0;
    ssize_t length = read(words, bad, sizeof bad - 1);
    close(words);
    if (length <= 0) return 0;
    bad[length] = 0;
    char *part = strchr(bad, ' ');
    if (!part) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t end = readlink(link, path, sizeof path - 1);
    if (end < 0) return 0;
    path[end] = 0;
    if (!strstr(path, part + 1)) return 0;
    usleep(1000 * atoi(bad));
    return 1;
}

static int sync_by(long call, int file) {
    if (is_bad(file)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(call, file);
}

int fsync(int file) { return sync_by(SYS_fsync, file); }
int fdatasync(int file) { return sync_by(SYS_fdatasync, file); }
