/* Preloaded into a PostgreSQL server: prints what the server itself calls each number, and ends.
 * "w NUMBER TYPE NAME" for wait events, "b NUMBER NAME" for types of backends. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

static void print_class(const char *(*type)(uint32_t), const char *(*name)(uint32_t), uint32_t class, uint32_t count)
{
    for (uint32_t id = 0; id < count; id++) {
        uint32_t number = class << 24 | id;
        const char *its_type = type(number), *its_name = name(number);
        printf("w %u %s %s\n", number, its_type ? its_type : "", its_name ? its_name : "");
    }
}

__attribute__((constructor)) static void print_names(void)
{
    const char *(*name)(uint32_t) = dlsym(RTLD_DEFAULT, "pgstat_get_wait_event");
    const char *(*type)(uint32_t) = dlsym(RTLD_DEFAULT, "pgstat_get_wait_event_type");
    const char *(*backend)(int) = dlsym(RTLD_DEFAULT, "GetBackendTypeDesc");
    if (!name || !type || !backend)
        return;
    print_class(type, name, 0x01, 200);
    print_class(type, name, 0x03, 16);
    print_class(type, name, 0x04, 1);
    /* Names of extensions' events are in shared memory, which this process has not. */
    print_class(type, name, 0x07, 1);
    for (uint32_t class = 0x05; class <= 0x0a; class++)
        if (class != 0x07)
            print_class(type, name, class, 200);
    for (int number = 0; number < 32; number++)
        printf("b %d %s\n", number, backend(number));
    fflush(stdout);
    _exit(0);
}
