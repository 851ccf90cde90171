/* A disk with 2 ms a sync, for a program that is started with this in LD_PRELOAD: each sync waits that much longer. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

static int then(const char *name, int file)
{
    const struct timespec wait = {0, 2000000};
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);

    nanosleep(&wait, 0);
    return real(file);
}

int fsync(int file)
{
    return then("fsync", file);
}

int fdatasync(int file)
{
    return then("fdatasync", file);
}
