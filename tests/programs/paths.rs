//! The same game as `paths.c` in Rust with frame pointers: reads "NAME COUNT", touches memory along known paths, says
//! what each was. `~` stands for any frames at all (of the standard library, which is part of the program).

use std::hint::black_box;
use std::io::{BufRead, Write};

const PAGE: usize = 4096;
const TAIL: &str = "~ paths::main ~ main * _start";

fn region(pages: usize) -> *mut u8 {
    // As vec![0] does: fresh zeroed memory straight from the kernel, never given back.
    let region: Vec<u8> = vec![0; (pages + 1) * PAGE];
    let start = region.leak().as_mut_ptr();
    start.wrapping_add(start.align_offset(PAGE))
}

#[inline(never)]
fn touch(start: *mut u8, pages: usize) {
    for page in 0..pages {
        // SAFETY: within the region, which is leaked.
        unsafe { start.add(page * PAGE).write_volatile(1) };
    }
}

#[inline(never)]
fn plain(pages: usize) {
    touch(region(pages), pages);
    black_box(());
}

#[inline(always)]
fn inlined(start: *mut u8, pages: usize) {
    touch(start, pages);
    black_box(());
}

#[inline(never)]
fn holder(pages: usize) {
    inlined(region(pages), pages);
    black_box(());
}

#[inline(never)]
fn generic<T: Default + Copy>(pages: usize) -> T {
    touch(region(pages), pages);
    black_box(T::default())
}

trait Shape {
    fn fill(&self, pages: usize);
}

struct Square;

impl Shape for Square {
    #[inline(never)]
    fn fill(&self, pages: usize) {
        touch(region(pages), pages);
        black_box(());
    }
}

#[inline(never)]
fn dynamic(shape: &dyn Shape, pages: usize) {
    shape.fill(pages);
    black_box(());
}

#[inline(never)]
fn recurse(depth: usize, pages: usize) -> usize {
    if depth == 0 {
        touch(region(pages), pages);
        return black_box(0);
    }
    black_box(recurse(depth - 1, pages)) + 1
}

#[inline(never)]
fn collected(pages: usize) {
    let mut bytes: Vec<u8> = Vec::with_capacity((pages + 2) * PAGE);
    bytes.resize(pages * PAGE, 7);
    black_box(bytes.leak());
}

#[inline(never)]
fn threaded(pages: usize) {
    let _ = std::thread::spawn(move || {
        plain(pages);
        black_box(());
    })
    .join();
    black_box(());
}

fn run(step: &str, pages: usize) -> Option<(String, i64)> {
    let exact = pages as i64;
    let with_tail = |chain: &str| format!("{chain} {TAIL}");
    Some(match step {
        "plain" => {
            plain(pages);
            (with_tail("~ paths::touch paths::plain"), exact)
        }
        "inlined" => {
            holder(pages);
            (with_tail("~ paths::touch paths::inlined paths::holder"), exact)
        }
        "generic" => {
            black_box(generic::<u64>(pages));
            (with_tail("~ paths::touch paths::generic"), exact)
        }
        "dynamic" => {
            dynamic(black_box(&Square), pages);
            (with_tail("~ paths::touch <paths::Square·as·paths::Shape>::fill paths::dynamic"), exact)
        }
        "recursion" => {
            black_box(recurse(30, pages));
            (with_tail("~ paths::touch paths::recurse{31}"), exact)
        }
        // Where the first and the last page begin is the allocator's affair.
        "collected" => {
            collected(pages);
            (with_tail("*memset ~ paths::collected"), -1)
        }
        "threaded" => {
            threaded(pages);
            ("~ paths::touch paths::plain paths::threaded::{{closure}} ~ *".to_owned(), exact)
        }
        _ => return None,
    })
}

fn main() {
    println!(r#"{{"ready":true}}"#);
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let Some((step, pages)) = line.split_once(' ') else { return };
        let Some((chain, told)) = run(step, pages.parse().unwrap_or(1)) else { return };
        let (pid, faults) = (std::process::id(), told.max(0));
        println!(
            r#"{{"done":"{step}","mappings":[],"paths":[{{"pid":{pid},"cause":"fault.anon","pages":{told},"faults":{faults},"chain":"{chain}"}}]}}"#
        );
        let _ = std::io::stdout().flush();
    }
}
