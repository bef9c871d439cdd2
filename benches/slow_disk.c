// A folder on a simulated slow disk. Open, create, read, sync and rename have a latency, as on a busy network
// file system. Writing has none, because it goes to the page cache there. Used to measure read-ahead and
// write-behind.
//
// usage: slow_disk FOLDER WAIT_US MOUNTPOINT -f     (FUSE 3; requests are served in parallel)
#define _GNU_SOURCE
#define FUSE_USE_VERSION 31
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *folder;
static useconds_t wait_us;

static void behind(char real[PATH_MAX], const char *path) { snprintf(real, PATH_MAX, "%s%s", folder, path); }

static int result_of(int result) { return result < 0 ? -errno : 0; }

static int slow_getattr(const char *path, struct stat *attributes, struct fuse_file_info *file) {
  (void)file;
  char real[PATH_MAX];
  behind(real, path);
  return result_of(lstat(real, attributes));
}

static int slow_readdir(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset,
                        struct fuse_file_info *file, enum fuse_readdir_flags flags) {
  (void)offset, (void)file, (void)flags;
  char real[PATH_MAX];
  behind(real, path);
  DIR *items = opendir(real);
  if (items == NULL) return -errno;
  for (struct dirent *item; (item = readdir(items)) != NULL;) fill(buffer, item->d_name, NULL, 0, 0);
  closedir(items);
  return 0;
}

static int open_slowly(const char *path, int flags, mode_t mode, struct fuse_file_info *file) {
  char real[PATH_MAX];
  behind(real, path);
  usleep(wait_us);
  int opened = open(real, flags, mode);
  if (opened < 0) return -errno;
  file->fh = (uint64_t)opened;
  file->keep_cache = 1;
  return 0;
}

static int slow_open(const char *path, struct fuse_file_info *file) {
  return open_slowly(path, file->flags & ~O_CREAT, 0, file);
}

static int slow_create(const char *path, mode_t mode, struct fuse_file_info *file) {
  return open_slowly(path, file->flags | O_CREAT, mode, file);
}

static int slow_read(const char *path, char *buffer, size_t size, off_t offset, struct fuse_file_info *file) {
  (void)path;
  usleep(wait_us);
  ssize_t got = pread((int)file->fh, buffer, size, offset);
  return got < 0 ? -errno : (int)got;
}

static int slow_write(const char *path, const char *bytes, size_t size, off_t offset,
                      struct fuse_file_info *file) {
  (void)path;
  ssize_t put = pwrite((int)file->fh, bytes, size, offset);
  return put < 0 ? -errno : (int)put;
}

static int slow_fsync(const char *path, int only_content, struct fuse_file_info *file) {
  (void)path, (void)only_content;
  usleep(wait_us);
  return result_of(fsync((int)file->fh));
}

static int slow_fsyncdir(const char *path, int only_content, struct fuse_file_info *file) {
  (void)path, (void)only_content, (void)file;
  usleep(wait_us);
  return 0;
}

static int slow_rename(const char *path, const char *to, unsigned int flags) {
  char real[PATH_MAX], real_to[PATH_MAX];
  behind(real, path);
  behind(real_to, to);
  usleep(wait_us);
  return result_of(renameat2(AT_FDCWD, real, AT_FDCWD, real_to, flags));
}

static int slow_unlink(const char *path) {
  char real[PATH_MAX];
  behind(real, path);
  return result_of(unlink(real));
}

static int slow_mkdir(const char *path, mode_t mode) {
  char real[PATH_MAX];
  behind(real, path);
  return result_of(mkdir(real, mode));
}

static int slow_rmdir(const char *path) {
  char real[PATH_MAX];
  behind(real, path);
  return result_of(rmdir(real));
}

static int slow_truncate(const char *path, off_t size, struct fuse_file_info *file) {
  char real[PATH_MAX];
  behind(real, path);
  return result_of(file != NULL ? ftruncate((int)file->fh, size) : truncate(real, size));
}

static int slow_release(const char *path, struct fuse_file_info *file) {
  (void)path;
  return close((int)file->fh);
}

static const struct fuse_operations operations = {
    .getattr = slow_getattr, .readdir = slow_readdir, .open = slow_open, .create = slow_create,
    .read = slow_read, .write = slow_write, .fsync = slow_fsync, .fsyncdir = slow_fsyncdir,
    .rename = slow_rename, .unlink = slow_unlink, .mkdir = slow_mkdir,
    .rmdir = slow_rmdir, .truncate = slow_truncate, .release = slow_release};

int main(int count, char **words) {
  if (count < 4) return fprintf(stderr, "usage: slow_disk FOLDER WAIT_US MOUNTPOINT -f\n"), 2;
  folder = words[1];
  wait_us = (useconds_t)atoi(words[2]);
  words[2] = words[0];
  return fuse_main(count - 2, words + 2, &operations, NULL);
}
