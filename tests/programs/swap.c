/* One of two libraries (NAME is swap1 or swap2) that take each other's place. Different code at the same offsets. */
#include <stddef.h>

#define FUNCTION __attribute__((noipa))
#define KEEP __asm__ volatile("" ::: "memory")
#define JOIN(a, b) a##b
#define OF(name, what) JOIN(name, what)

FUNCTION static void OF(NAME, _touch)(char *start, size_t pages)
{
    volatile char ballast[BALLAST];
    ballast[0] = 1;
    for (size_t page = 0; page < pages; page++)
        *(volatile char *)(start + page * 4096) = ballast[0];
}

FUNCTION void OF(NAME, _work)(char *start, size_t pages)
{
    OF(NAME, _touch)(start, pages);
    KEEP;
}
