/*
 * Touches memory along code paths that it knows, and says for each which functions it went through and how many
 * pages that brought: the truth that call stacks are held against.
 *
 * Reads commands "NAME COUNT" from stdin, one a line; answers each with one line of JSON. A path is told from the
 * inside out: NAME once, NAME{N} N times, NAME+ at least once, * for any frames of other modules.
 *
 * Functions are neither inlined nor cloned (noipa), and no call is the last thing that a function does, or it
 * would be a jump and the caller honestly gone from the stack.
 */
#define _GNU_SOURCE
#include <alloca.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define FUNCTION __attribute__((noipa))
#define KEEP __asm__ volatile("" ::: "memory")
#define PAGE 4096UL

static const char *self;
static int releases[2]; /* children that linger read from it until everyone goes */
static char answer[1 << 16];
static size_t said;

static void say(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    said += vsnprintf(answer + said, sizeof answer - said, format, arguments);
    va_end(arguments);
}

static const char *separator(void)
{
    return answer[said - 1] == '[' ? "" : ",";
}

/* A path: cause, pages that it brought (negative: took), whose, and the functions. */
static void told_of(pid_t pid, const char *cause, long pages, long faults, const char *chain)
{
    say("%s{\"pid\":%d,\"cause\":\"%s\",\"pages\":%ld,\"faults\":%ld,\"chain\":\"%s\"}", separator(), pid, cause, pages,
        faults, chain);
}

static void told(const char *cause, long pages, const char *chain)
{
    told_of(getpid(), cause, pages, pages > 0 ? pages : 0, chain);
}

FUNCTION static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* Part of its callers: nothing here is on a path. */
__attribute__((always_inline)) static inline char *region(size_t pages)
{
    char *start = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        die("mmap");
    return start;
}

FUNCTION void touch(char *start, size_t pages)
{
    for (size_t page = 0; page < pages; page++)
        *(volatile char *)(start + page * PAGE) = 1;
}

FUNCTION static void direct(size_t pages)
{
    touch(region(pages), pages);
    told("fault.anon", pages, "touch direct main * _start");
}

FUNCTION static void recurse(int depth, char *start, size_t pages)
{
    volatile char ballast[150];
    ballast[0] = 1;
    if (depth > 1)
        recurse(depth - 1, start, pages);
    else
        touch(start, pages);
    KEEP;
    (void)ballast[0];
}

FUNCTION static void recursion(size_t pages)
{
    recurse(60, region(pages), pages);
    told("fault.anon", pages, "touch recurse{60} recursion main * _start");
}

FUNCTION static void variable(size_t pages)
{
    /* The size is not known to the compiler: the frame's address must be kept in a register. */
    volatile size_t size = 8000;
    char *room = alloca(size);
    room[0] = 1;
    touch(region(pages), pages);
    __asm__ volatile("" ::"r"(room) : "memory");
    told("fault.anon", pages, "touch variable main * _start");
}

FUNCTION static void pointed_first(char *start, size_t pages)
{
    touch(start, pages);
    KEEP;
}

FUNCTION static void pointed_second(char *start, size_t pages)
{
    volatile char ballast[64];
    ballast[0] = 1;
    touch(start, pages);
    KEEP;
    (void)ballast[0];
}

static void (*volatile pointed[])(char *, size_t) = {pointed_first, pointed_second};

FUNCTION static void pointers(size_t pages)
{
    for (int which = 0; which < 2; which++)
        pointed[which](region(pages), pages);
    told("fault.anon", pages, "touch pointed_first pointers main * _start");
    told("fault.anon", pages, "touch pointed_second pointers main * _start");
}

static char *compare_start;
static size_t compare_left, compare_done;

FUNCTION static int compare(const void *a, const void *b)
{
    if (compare_left > 0) {
        touch(compare_start + compare_done * PAGE, 1);
        compare_done++;
        compare_left--;
    }
    return *(const int *)a - *(const int *)b;
}

FUNCTION static void sorted(size_t pages)
{
    static int numbers[4096];
    for (int i = 0; i < 4096; i++)
        numbers[i] = (i * 7919) % 4096;
    compare_start = region(pages);
    compare_left = pages;
    compare_done = 0;
    qsort(numbers, 4096, sizeof numbers[0], compare);
    told("fault.anon", compare_done, "touch compare * sorted main * _start");
}

FUNCTION static void copied(size_t pages)
{
    char *from = region(pages), *to = region(pages);
    touch(from, pages);
    told("fault.anon", pages, "touch copied main * _start");
    memcpy(to, from, pages * PAGE);
    told("fault.anon", pages, "*memcpy|memmove copied main * _start");
}

FUNCTION static void filled(size_t pages)
{
    char *start = region(pages);
    memset(start, 1, pages * PAGE);
    __asm__ volatile("" ::"r"(start) : "memory");
    told("fault.anon", pages, "*memset filled main * _start");
}

FUNCTION static void read_into(size_t pages)
{
    int zero = open("/dev/zero", O_RDONLY);
    char *start = region(pages);
    if (read(zero, start, pages * PAGE) != (ssize_t)(pages * PAGE))
        die("read");
    close(zero);
    told("fault.anon", pages, "*read read_into main * _start");
}

static char *handler_start;
static size_t handler_pages;

FUNCTION static void on_signal(int number)
{
    (void)number;
    touch(handler_start, handler_pages);
    KEEP;
}

static void handle(int number, void (*handler)(int), int flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    if (sigaction(number, &action, NULL) != 0)
        die("sigaction");
}

FUNCTION static void signalled(size_t pages)
{
    handle(SIGUSR1, on_signal, 0);
    handler_start = region(handler_pages = pages);
    raise(SIGUSR1);
    told("fault.anon", pages, "touch on_signal * signalled main * _start");
}

/* Its first instruction is the one that is interrupted: one byte before lies another function. */
void trip(char *byte);
__asm__(".text\n.globl trip\n.type trip,@function\ntrip:\n.cfi_startproc\nmovb $1,(%rdi)\nret\n.cfi_endproc\n"
        ".size trip,.-trip\n");

static char *trap;

FUNCTION static void on_segv(int number)
{
    (void)number;
    if (mprotect(trap, PAGE, PROT_READ | PROT_WRITE) != 0)
        _exit(1);
    touch(handler_start, handler_pages);
    KEEP;
}

FUNCTION static void tripped(size_t pages)
{
    handle(SIGSEGV, on_segv, 0);
    handler_start = region(handler_pages = pages);
    trap = region(1);
    mprotect(trap, PAGE, PROT_NONE);
    trip(trap);
    KEEP;
    told("fault.anon", pages, "touch on_segv * trip tripped main * _start");
    told("fault.anon", 1, "trip tripped main * _start");
}

/* Without any unwinding information, like much hand-written code: a leaf. */
void bare(char *start, size_t pages);
__asm__(".text\n.globl bare\n.type bare,@function\nbare:\n1: movb $1,(%rdi)\nadd $4096,%rdi\ndec %rsi\njnz 1b\nret\n"
        ".size bare,.-bare\n");

FUNCTION static void bared(size_t pages)
{
    bare(region(pages), pages);
    told("fault.anon", pages, "bare bared main * _start");
}

struct work {
    char *start;
    size_t pages;
};

FUNCTION static void *worker(void *argument)
{
    struct work *work = argument;
    touch(work->start, work->pages);
    KEEP;
    return NULL;
}

FUNCTION static int descend(int depth)
{
    volatile char ballast[2000];
    ballast[0] = 1;
    ballast[1999] = 1;
    int below = depth > 0 ? descend(depth - 1) : 0;
    KEEP;
    return below + ballast[0];
}

/* Grows its own stack: the page of the stack pointer is absent when it faults. */
FUNCTION static void *diver(void *argument)
{
    descend(12);
    KEEP;
    return argument;
}

FUNCTION static void threads(size_t pages)
{
    pthread_t running[4];
    struct work work[3];
    for (int i = 0; i < 3; i++) {
        work[i] = (struct work){region(pages), pages};
        pthread_create(&running[i], NULL, worker, &work[i]);
    }
    pthread_create(&running[3], NULL, diver, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(running[i], NULL);
    told("fault.anon", 3 * pages, "touch worker *");
    told("fault.anon", -1, "descend+ diver *");
}

/* A library that is not there when the session begins. */
FUNCTION static void late(size_t pages)
{
    char path[4096];
    snprintf(path, sizeof path, "%s.late.so", self);
    void *library = dlopen(path, RTLD_LAZY);
    if (library == NULL)
        die(dlerror());
    void (*late_work)(char *, size_t) = (void (*)(char *, size_t))dlsym(library, "late_work");
    void (*late_lazy)(char *, size_t) = (void (*)(char *, size_t))dlsym(library, "late_lazy");
    late_work(region(pages), pages);
    told("fault.anon", pages, "late_touch late_work late main * _start");
    late_lazy(region(pages), pages);
    told("fault.anon", pages, "late_touch late_resolve|late_picked * late_lazy late main * _start");
}

FUNCTION static void swapped(int which, size_t pages)
{
    static void *library;
    char path[4096], chain[64];
    if (library != NULL)
        dlclose(library);
    snprintf(path, sizeof path, "%s.swap%d.so", self, which);
    library = dlopen(path, RTLD_NOW);
    if (library == NULL)
        die(dlerror());
    void (*work)(char *, size_t) = (void (*)(char *, size_t))dlsym(library, which == 1 ? "swap1_work" : "swap2_work");
    work(region(pages), pages);
    snprintf(chain, sizeof chain, "swap%d_touch swap%d_work swapped swap%d main * _start", which, which, which);
    told("fault.anon", pages, chain);
}

/* Two libraries of one size: the second takes the place of the first, most likely at the same addresses. */
FUNCTION static void swap1(size_t pages)
{
    swapped(1, pages);
    KEEP;
}

FUNCTION static void swap2(size_t pages)
{
    swapped(2, pages);
    KEEP;
}

FUNCTION static void cow_child(char *inherited, size_t pages)
{
    touch(inherited, pages);
    touch(region(2 * pages), 2 * pages);
    KEEP;
}

static pid_t waited(pid_t child)
{
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        die("the child");
    return child;
}

FUNCTION static void forked(size_t pages)
{
    char *inherited = region(pages);
    touch(inherited, pages);
    told("fault.anon", pages, "touch forked main * _start");
    pid_t child = fork();
    if (child == 0) {
        cow_child(inherited, pages);
        _exit(0);
    }
    waited(child);
    told_of(child, "fault.cow", 0, pages, "touch cow_child forked main * _start");
    told_of(child, "fault.anon", 2 * pages, 2 * pages, "touch cow_child forked main * _start");
}

FUNCTION static void vforked(size_t pages)
{
    char *start = region(pages);
    pid_t child = vfork();
    if (child == 0) {
        touch(start, pages);
        _exit(0);
    }
    waited(child);
    told("fault.anon", pages, "touch vforked main * _start");
}

/* Another program image (of the same file); it stays until everyone goes. */
FUNCTION static void execed(size_t pages)
{
    int ready[2];
    char count[32], fd[32], done = 0;
    if (pipe(ready) != 0)
        die("pipe");
    snprintf(count, sizeof count, "%zu", pages);
    snprintf(fd, sizeof fd, "%d", ready[1]);
    pid_t child = fork();
    if (child == 0) {
        dup2(releases[0], 0);
        close(releases[1]);
        execl(self, self, "again", count, fd, NULL);
        _exit(1);
    }
    if (child < 0 || read(ready[0], &done, 1) != 1)
        die("the other program");
    close(ready[0]);
    close(ready[1]);
    told_of(child, "fault.anon", pages, pages, "touch again main * _start");
}

FUNCTION static void again(const char *count, const char *fd)
{
    size_t pages = strtoul(count, NULL, 10);
    char byte;
    touch(region(pages), pages);
    if (write(atoi(fd), "x", 1) != 1)
        exit(1);
    while (read(0, &byte, 1) > 0)
        ;
}

FUNCTION static void mapped_file(size_t pages)
{
    int file = open(self, O_RDONLY);
    char *start = mmap(NULL, pages * PAGE, PROT_READ, MAP_PRIVATE, file, 0);
    if (start == MAP_FAILED)
        die("mmap");
    long sum = 0;
    for (size_t page = 0; page < pages; page++)
        sum += *(volatile char *)(start + page * PAGE);
    close(file);
    KEEP;
    (void)sum;
    told("fault.file", -1, "mapped_file main * _start");
}

FUNCTION static void heaped(size_t pages)
{
    /* Above what malloc would map, were the threshold not moved: the heap is grown by brk. */
    char *start = malloc(pages * PAGE);
    touch((char *)(((uintptr_t)start + PAGE) & ~(PAGE - 1)), pages - 2);
    told("fault.anon", pages - 2, "touch heaped main * _start");
}

/* ---- Two callers at the same depth: same instruction, same stack pointer. ---- */

FUNCTION static void twin_a(char *start, size_t pages)
{
    touch(start, pages);
    KEEP;
}

FUNCTION static void twin_b(char *start, size_t pages)
{
    touch(start, pages);
    KEEP;
}

FUNCTION static void equal(const char *name, size_t pages)
{
    char chain[64];
    char *start = region(pages);
    if (strcmp(name, "equal_a") == 0)
        twin_a(start, pages);
    else
        twin_b(start, pages);
    snprintf(chain, sizeof chain, "touch twin_%c equal main * _start", name[6]);
    told("fault.anon", pages, chain);
}

FUNCTION static void middle(char *start, size_t pages)
{
    touch(start, pages);
    KEEP;
}

FUNCTION static void upper_a(char *start, size_t pages)
{
    middle(start, pages);
    KEEP;
}

FUNCTION static void upper_b(char *start, size_t pages)
{
    middle(start, pages);
    KEEP;
}

FUNCTION static void higher(const char *name, size_t pages)
{
    char chain[64];
    char *start = region(pages);
    if (strcmp(name, "higher_a") == 0)
        upper_a(start, pages);
    else
        upper_b(start, pages);
    snprintf(chain, sizeof chain, "touch middle upper_%c higher main * _start", name[7]);
    told("fault.anon", pages, chain);
}

/* The difference lies above eight frames that are equal. */
#define LEVEL(number, below)                                                                                           \
    FUNCTION static void level##number(char *start, size_t pages)                                                      \
    {                                                                                                                  \
        below(start, pages);                                                                                           \
        KEEP;                                                                                                          \
    }
LEVEL(1, touch)
LEVEL(2, level1)
LEVEL(3, level2)
LEVEL(4, level3)
LEVEL(5, level4)
LEVEL(6, level5)
LEVEL(7, level6)
LEVEL(8, level7)
LEVEL(_far_a, level8)
LEVEL(_far_b, level8)

FUNCTION static void far(const char *name, size_t pages)
{
    char chain[128];
    char *start = region(pages);
    if (strcmp(name, "far_a") == 0)
        level_far_a(start, pages);
    else
        level_far_b(start, pages);
    snprintf(chain, sizeof chain,
             "touch level1 level2 level3 level4 level5 level6 level7 level8 level_far_%c far main * _start", name[4]);
    told("fault.anon", pages, chain);
}

/* Turn by turn, as many pages each time as the command's name says. */
FUNCTION static void turns(size_t pages, size_t each)
{
    char *a = region(pages), *b = region(pages);
    for (size_t done = 0; done < pages; done += each) {
        twin_a(a + done * PAGE, each);
        twin_b(b + done * PAGE, each);
    }
    told("fault.anon", pages, "touch twin_a turns main * _start");
    told("fault.anon", pages, "touch twin_b turns main * _start");
}

/* ---- Mappings and what shrinks. ---- */

static void mapping(const char *what, const char *start, const char *chain)
{
    say("%s{\"what\":\"%s\",\"start\":\"%p\",\"chain\":\"%s\"}", separator(), what, (void *)start, chain);
}

FUNCTION static char *mapper_a(size_t pages, int protection)
{
    char *start = mmap(NULL, pages * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    KEEP;
    return start;
}

FUNCTION static char *mapper_b(size_t pages, int protection)
{
    char *start = mmap(NULL, pages * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    KEEP;
    return start;
}

FUNCTION static void discard(char *start, size_t pages)
{
    madvise(start, pages * PAGE, MADV_DONTNEED);
    KEEP;
}

FUNCTION static void unmap(char *start, size_t pages)
{
    munmap(start, pages * PAGE);
    KEEP;
}

FUNCTION static void raw_unmap(char *start, size_t pages)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(SYS_munmap), "D"(start), "S"(pages * PAGE) : "rcx", "r11", "memory");
}

FUNCTION static void shorten(char *start, size_t from, size_t to)
{
    if (mremap(start, from * PAGE, to * PAGE, 0) != start)
        die("mremap");
    KEEP;
}

FUNCTION static void lower(size_t pages)
{
    sbrk(-(intptr_t)(pages * PAGE));
    KEEP;
}

FUNCTION static void overwrite(char *start, size_t pages)
{
    mmap(start, pages * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    KEEP;
}

FUNCTION static void cut(int file)
{
    if (ftruncate(file, 0) != 0)
        die("ftruncate");
    KEEP;
}

FUNCTION static void shrunk(size_t pages)
{
    /* Between pages without access: nothing merges with its neighbours. */
    char *all = mmap(NULL, 8 * (pages + 1) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *at[6];
    for (int i = 0; i < 6; i++) {
        at[i] = all + (i * (pages + 1) + 1) * PAGE;
        mprotect(at[i], pages * PAGE, PROT_READ | PROT_WRITE);
        touch(at[i], pages);
    }
    told("fault.anon", 6 * pages + pages, "touch shrunk main * _start");
    discard(at[0], pages);
    told("madvise.dontneed", -(long)pages, "*madvise discard shrunk main * _start");
    unmap(at[1], pages);
    told("munmap", -(long)pages, "*munmap unmap shrunk main * _start");
    raw_unmap(at[2], pages);
    told("munmap", -(long)pages, "raw_unmap shrunk main * _start");
    shorten(at[3], pages, pages / 2);
    told("mremap", -(long)(pages - pages / 2), "*mremap shorten shrunk main * _start");
    overwrite(at[4], pages);
    told("mmap.fixed", -(long)pages, "*mmap overwrite shrunk main * _start");
    char *top = sbrk((intptr_t)(pages * PAGE));
    touch((char *)(((uintptr_t)top + PAGE - 1) & ~(PAGE - 1)), pages);
    lower(pages);
    told("brk", -(long)pages, "*brk lower shrunk main * _start");
    int file = memfd_create("cut", 0);
    if (ftruncate(file, pages * PAGE) != 0)
        die("ftruncate");
    char *shared = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    touch(shared, pages);
    told("fault.shmem", pages, "touch shrunk main * _start");
    cut(file);
    told("truncate", -(long)pages, "*truncate cut shrunk main * _start");
    close(file);
}

/* Protections that nothing else here has: neither merges with a neighbour. */
FUNCTION static void births(const char *name, size_t pages)
{
    if (strcmp(name, "births_a") == 0) {
        char *start = mapper_a(pages, PROT_EXEC);
        mapping("born", start, "*mmap mapper_a births main * _start");
        unmap(start, pages);
        mapping("died", start, "*munmap unmap births main * _start");
    } else {
        char *start = mapper_b(pages, PROT_READ | PROT_WRITE | PROT_EXEC);
        mapping("born", start, "*mmap mapper_b births main * _start");
        raw_unmap(start, pages);
        mapping("died", start, "raw_unmap births main * _start");
    }
    KEEP;
}

/* ---- What cannot be complete, and should say so. ---- */

FUNCTION static void too_deep(size_t pages)
{
    recurse(600, region(pages), pages);
    told("fault.anon", -1, "recurse+");
    told("fault.anon", pages, "touch recurse{600} too_deep main * _start");
}

FUNCTION static void alternate(size_t pages)
{
    stack_t other = {.ss_sp = region(64), .ss_size = 64 * PAGE}, none = {.ss_flags = SS_DISABLE};
    touch(other.ss_sp, 64);
    if (sigaltstack(&other, NULL) != 0)
        die("sigaltstack");
    handle(SIGUSR2, on_signal, SA_ONSTACK);
    handler_start = region(handler_pages = pages);
    raise(SIGUSR2);
    sigaltstack(&none, NULL);
    told("fault.anon", 64, "touch alternate main * _start");
    told("fault.anon", pages, "touch on_signal * alternate main * _start");
}

/* Code that no file holds: bare's instructions, and a name for them where profilers look. */
FUNCTION static void compiled(size_t pages)
{
    static const unsigned char code[] = {0xc6, 0x07, 0x01, 0x48, 0x81, 0xc7, 0,    0x10, 0,
                                         0,    0x48, 0xff, 0xce, 0x75, 0xf1, 0xc3};
    char path[64];
    char *place = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (place == MAP_FAILED)
        die("mmap");
    memcpy(place, code, sizeof code);
    snprintf(path, sizeof path, "/tmp/perf-%d.map", getpid());
    FILE *map = fopen(path, "w");
    if (map == NULL)
        die(path);
    fprintf(map, "%lx %zx made_at_run_time\n", (unsigned long)place, sizeof code);
    fclose(map);
    ((void (*)(char *, size_t))place)(region(pages), pages);
    told("fault.anon", pages, "*made_at_run_time compiled main * _start");
}

/* Another program, gone before anyone can look at its mappings. */
FUNCTION static void brief(size_t pages)
{
    char count[32];
    snprintf(count, sizeof count, "%zu", pages);
    pid_t child = vfork();
    if (child == 0) {
        execl(self, self, "brief", count, NULL);
        _exit(1);
    }
    waited(child);
    told_of(child, "fault.anon", pages, pages, "touch main * _start");
}

static const struct {
    const char *name;
    void (*step)(size_t);
} steps[] = {
    {"direct", direct},       {"recursion", recursion}, {"variable", variable},   {"pointers", pointers},
    {"sorted", sorted},       {"copied", copied},       {"filled", filled},       {"read_into", read_into},
    {"signalled", signalled}, {"tripped", tripped},     {"bared", bared},         {"threads", threads},
    {"late", late},           {"swap1", swap1},         {"swap2", swap2},   {"forked", forked},       {"vforked", vforked},
    {"execed", execed},       {"shrunk", shrunk},       {"mapped_file", mapped_file}, {"heaped", heaped},
    {"too_deep", too_deep},   {"alternate", alternate}, {"compiled", compiled},   {"brief", brief},
};

int main(int count, char **arguments)
{
    char line[128], name[64];
    size_t pages;
    self = arguments[0];
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    if (count > 3 && strcmp(arguments[1], "again") == 0) {
        again(arguments[2], arguments[3]);
        return 0;
    }
    if (count > 2 && strcmp(arguments[1], "brief") == 0) {
        pages = strtoul(arguments[2], NULL, 10);
        touch(region(pages), pages);
        return 0;
    }
    if (count > 2 && strcmp(arguments[1], "to") == 0 && freopen(arguments[2], "w", stdout) == NULL)
        die(arguments[2]);
    if (pipe2(releases, O_CLOEXEC) != 0)
        die("pipe");
    alarm(1800);
    printf("{\"ready\":true}\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL && sscanf(line, "%63s %zu", name, &pages) == 2) {
        said = 0;
        int known = 0;
        say("{\"done\":\"%s\",\"mappings\":[", name);
        if (strncmp(name, "births_", 7) == 0) {
            births(name, pages);
            known = 1;
        }
        say("],\"paths\":[");
        if (strncmp(name, "equal_", 6) == 0) {
            equal(name, pages);
            known = 1;
        }
        if (strncmp(name, "higher_", 7) == 0) {
            higher(name, pages);
            known = 1;
        }
        if (strncmp(name, "far_", 4) == 0) {
            far(name, pages);
            known = 1;
        }
        if (strncmp(name, "turns", 5) == 0) {
            turns(pages, strtoul(name + 5, NULL, 10));
            known = 1;
        }
        for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++)
            if (strcmp(name, steps[i].name) == 0) {
                steps[i].step(pages);
                known = 1;
            }
        say("]}");
        if (!known)
            die("no such step");
        puts(answer);
        fflush(stdout);
    }
    return 0;
}
