/* A library that paths.c loads late. Its exported function `late_picked` is chosen by `late_resolve` when it is called
 * for the first time, by the dynamic linker, in the middle of the call. */
#include <stddef.h>

#define FUNCTION __attribute__((noipa))
#define KEEP __asm__ volatile("" ::: "memory")

static char *lazy_start;
static size_t lazy_pages;

FUNCTION static void late_touch(char *start, size_t pages)
{
    for (size_t page = 0; page < pages; page++)
        *(volatile char *)(start + page * 4096) = 1;
}

FUNCTION void late_work(char *start, size_t pages)
{
    late_touch(start, pages);
    KEEP;
}

static void late_nothing(void)
{
}

FUNCTION static void (*late_resolve(void))(void)
{
    late_touch(lazy_start, lazy_pages);
    KEEP;
    return late_nothing;
}

void late_picked(void) __attribute__((ifunc("late_resolve")));

FUNCTION void late_lazy(char *start, size_t pages)
{
    lazy_start = start;
    lazy_pages = pages;
    late_picked();
    KEEP;
}
