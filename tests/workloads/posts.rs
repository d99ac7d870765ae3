//! Threads that stand at their post: named, blocked in a system call, with known amounts of stack and arena.
//!
//! Plain pthreads: the standard library's threads bring a signal stack and allocate before they are ours.

use crate::region::Region;
use crate::stage::gettid;
use memtrace_tests::pages::page_size;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::sync::{Condvar, Mutex, PoisonError};

/// Size of the stacks: not glibc's default, so that none comes from its cache.
const STACK_BYTES: usize = 1 << 20;
/// glibc's `HEAP_MAX_SIZE`: an arena's heaps lie at its multiples.
pub const ARENA_BYTES: usize = 64 << 20;

/// A thread at its post until the process ends.
pub struct Post {
    pub tid: u32,
    /// The stack's readable and writable part.
    pub stack: (usize, usize),
    /// The arena's, whole in memory.
    pub arena: Option<(usize, usize)>,
}

struct Orders {
    name: &'static CStr,
    stack_pages: usize,
    arena_pages: usize,
    table: Mutex<Table>,
    news: Condvar,
}

/// What the two lay down for each other. Not a channel: those allocate, and a thread that allocates has an arena.
#[derive(Default)]
struct Table {
    /// The thread's stack, looked up for it: to ask allocates too.
    stack: Option<(usize, usize)>,
    answer: Option<Post>,
}

impl Post {
    /// Starts it and waits until it stands. Its stack has exactly `stack_pages` in memory, its arena at least
    /// `arena_pages`; none at all for 0.
    pub fn start(name: &'static CStr, stack_pages: usize, arena_pages: usize) -> Self {
        let orders: &'static Orders = Box::leak(Box::new(Orders {
            name,
            stack_pages,
            arena_pages,
            table: Mutex::default(),
            news: Condvar::new(),
        }));
        // SAFETY: the orders live as long as the thread, for ever; attributes are initialised before they are used.
        let thread = unsafe {
            let mut attributes = std::mem::zeroed::<libc::pthread_attr_t>();
            assert_eq!(libc::pthread_attr_init(&raw mut attributes), 0);
            assert_eq!(libc::pthread_attr_setstacksize(&raw mut attributes, STACK_BYTES), 0);
            let mut thread = std::mem::zeroed::<libc::pthread_t>();
            let orders = (&raw const *orders).cast_mut().cast();
            let error = libc::pthread_create(&raw mut thread, &raw const attributes, stand, orders);
            assert_eq!(error, 0, "pthread_create: {}", io::Error::from_raw_os_error(error));
            thread
        };
        orders.lay(|table| table.stack = Some(stack_of(thread)));
        orders.wait(|table| table.answer.take())
    }
}

impl Orders {
    fn lay(&self, put: impl FnOnce(&mut Table)) {
        put(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner));
        self.news.notify_all();
    }

    fn wait<T>(&self, take: impl Fn(&mut Table) -> Option<T>) -> T {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(taken) = take(&mut table) {
                return taken;
            }
            table = self.news.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

extern "C" fn stand(orders: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: `start` leaked them for this thread.
    let orders: &Orders = unsafe { &*orders.cast::<Orders>() };
    // SAFETY: a NUL-terminated name.
    unsafe { libc::prctl(libc::PR_SET_NAME, orders.name.as_ptr()) };
    let arena = (orders.arena_pages > 0).then(|| fill_arena(orders.arena_pages));
    let stack = orders.wait(|table| table.stack.take());
    // From the top down, the frames that run now among them; a deeper call afterwards is within what is touched.
    let touched = Region::at(stack.1 - orders.stack_pages * page_size(), stack.1);
    touched.touch();
    let post = Post { tid: gettid(), stack, arena };
    orders.lay(|table| table.answer = Some(post));
    loop {
        // SAFETY: no memory is involved; it returns on signals.
        unsafe { libc::pause() };
    }
}

/// Start of the writable part and end of a thread's stack.
fn stack_of(thread: libc::pthread_t) -> (usize, usize) {
    // SAFETY: attributes of a thread that lives, filled by the call; plain out-parameters.
    unsafe {
        let mut attributes = std::mem::zeroed::<libc::pthread_attr_t>();
        let (mut start, mut size) = (std::ptr::null_mut(), 0);
        assert_eq!(libc::pthread_getattr_np(thread, &raw mut attributes), 0);
        assert_eq!(libc::pthread_attr_getstack(&raw const attributes, &raw mut start, &raw mut size), 0);
        libc::pthread_attr_destroy(&raw mut attributes);
        // glibc's answer begins after its guard.
        (start as usize, start as usize + size)
    }
}

/// Small blocks until so many pages are used, then every page of the heap that is open for writing.
fn fill_arena(pages: usize) -> (usize, usize) {
    let mut block = std::ptr::null_mut();
    for _ in 0..pages * page_size() / 1024 {
        // SAFETY: leaked on purpose; this is what the arena is filled with.
        block = unsafe { libc::malloc(1008) };
        assert!(!block.is_null());
    }
    let start = block as usize & !(ARENA_BYTES - 1);
    // Room beforehand: it is taken from this arena, which must not grow once its line is printed.
    let mut maps = String::with_capacity(1 << 20);
    File::open("/proc/self/maps").and_then(|mut file| file.read_to_string(&mut maps)).expect("maps");
    let end = maps
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{start:x}-"))?.split_once(' '))
        .and_then(|(end, _)| usize::from_str_radix(end, 16).ok())
        .expect("the arena is a mapping of its own");
    Region::at(start, end).touch();
    (start, end)
}
