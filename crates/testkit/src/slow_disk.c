/* Makes the syncs of the process that it is loaded into slow, as long as the file exists that RTDB_SLOW_DISK names. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* What a sync takes then. */
static const struct timespec LATER = {.tv_sec = 0, .tv_nsec = 700 * 1000 * 1000};

int fdatasync(int fd) {
    static int (*sync)(int);
    const char *flag = getenv("RTDB_SLOW_DISK");
    /* Not those of the SpacetimeDB that it starts. */
    if (flag && !strcmp(program_invocation_short_name, "rafttimedb") && !access(flag, F_OK))
        nanosleep(&LATER, NULL);
    if (!sync)
        sync = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return sync(fd);
}
