// A folder seen through a slow disk: every open and every read waits before it is answered, as a busy network file system makes
// it wait. For the measurement of read-ahead.
//
// usage: slow_disk FOLDER WAIT_US MOUNTPOINT -f     (FUSE 3; reads are answered in parallel)
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

static int slow_getattr(const char *path, struct stat *attributes, struct fuse_file_info *file) {
  (void)file;
  char real[PATH_MAX];
  behind(real, path);
  return lstat(real, attributes) == 0 ? 0 : -errno;
}

static int slow_readdir(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *file,
                        enum fuse_readdir_flags flags) {
  (void)offset, (void)file, (void)flags;
  char real[PATH_MAX];
  behind(real, path);
  DIR *items = opendir(real);
  if (items == NULL) return -errno;
  for (struct dirent *item; (item = readdir(items)) != NULL;) fill(buffer, item->d_name, NULL, 0, 0);
  closedir(items);
  return 0;
}

static int slow_open(const char *path, struct fuse_file_info *file) {
  char real[PATH_MAX];
  behind(real, path);
  usleep(wait_us);
  int opened = open(real, O_RDONLY);
  if (opened < 0) return -errno;
  file->fh = (uint64_t)opened;
  file->keep_cache = 1;
  return 0;
}

static int slow_read(const char *path, char *buffer, size_t size, off_t offset, struct fuse_file_info *file) {
  (void)path;
  usleep(wait_us);
  ssize_t got = pread((int)file->fh, buffer, size, offset);
  return got < 0 ? -errno : (int)got;
}

static int slow_release(const char *path, struct fuse_file_info *file) {
  (void)path;
  return close((int)file->fh);
}

static const struct fuse_operations operations = {
    .getattr = slow_getattr, .readdir = slow_readdir, .open = slow_open, .read = slow_read, .release = slow_release};

int main(int count, char **words) {
  if (count < 4) return fprintf(stderr, "usage: slow_disk FOLDER WAIT_US MOUNTPOINT -f\n"), 2;
  folder = words[1];
  wait_us = (useconds_t)atoi(words[2]);
  words[2] = words[0];
  return fuse_main(count - 2, words + 2, &operations, NULL);
}
