//! Swap and reclaim. Here the kernel decides the amount; the truth is the process's own counters.

use crate::Scene;
use crate::helper::{Helper, Order};
use crate::others::me;
use crate::region::{Region, make_file};
use crate::stage::{Check, Expect, Stage, gettid};
use memtrace_tests::pages::{Pages, Pid, page_size};
use std::path::Path;

pub const SCENES: &[(&str, Scene)] = &[
    ("fault.swapin", swapin),
    ("madvise.pageout", pageout_own),
    ("madvise.pageout.other", pageout_other),
    ("madvise.pageout.file", pageout_file),
    ("madvise.free", free),
    ("reclaim.memcg", memcg),
    ("reclaim.memcg.own", memcg_own),
    ("reclaim.memcg.file", memcg_file),
    ("oom_kill", oom_kill),
    ("reclaim.direct", node),
    ("reclaim.kswapd", kswapd),
];

/// Writes the region and pages it out; how many pages went.
pub fn page_out(stage: &mut Stage, region: &Region) -> usize {
    region.write();
    let before = Pages::read(Pid::Own).expect("own status").swap;
    region.advise(libc::MADV_PAGEOUT);
    let swapped = Pages::read(Pid::Own).expect("own status").swap - before;
    if swapped < region.pages() as i64 / 2 {
        stage.fail("the kernel paged out less than half; is swap on?");
    }
    swapped.max(0) as usize
}

/// What went by itself must have gone in this direction, and be enough to mean something.
fn taken(stage: &mut Stage, least: i64) -> Pages {
    let moved = stage.moved();
    if -(moved.anon + moved.file + moved.shmem) < least {
        stage.fail(&format!("the kernel took too little: {moved}"));
    }
    moved
}

fn swapin(stage: &mut Stage) {
    stage.settle();
    let region = Region::anon(512);
    let swapped = page_out(stage, &region);
    if swapped != 512 {
        stage.fail("some pages stayed");
    }
    stage.begin();
    region.read();
    let entry = Expect::new("fault.swapin").swap(512).negative().anon(512).faults(512);
    stage.finish(Check::All, &[entry.at(&region)]);
}

fn pageout_own(stage: &mut Stage) {
    stage.settle();
    let region = Region::anon(1024);
    region.write();
    stage.begin();
    region.advise(libc::MADV_PAGEOUT);
    let moved = taken(stage, 900);
    stage.finish(Check::All, &[Expect::new("madvise.pageout").pages(moved).at(&region)]);
}

fn pageout_other(stage: &mut Stage) {
    let mut helper = Helper::start(None);
    stage.settle();
    let region = Region::anon(1024);
    region.write();
    stage.begin();
    helper.order(Order::Pageout, me(&region));
    let moved = taken(stage, 900);
    stage.finish(Check::All, &[Expect::new("madvise.pageout").pages(moved).by(helper.pid()).at(&region)]);
}

fn pageout_file(stage: &mut Stage) {
    let file = make_file(&stage.dir, 640);
    stage.settle();
    let region = Region::file(&file, 640, libc::MAP_PRIVATE);
    region.read();
    stage.begin();
    region.advise(libc::MADV_PAGEOUT);
    let moved = taken(stage, 500);
    stage.finish(Check::All, &[Expect::new("madvise.pageout").pages(moved).at(&region)]);
}

fn cgroup_helper(stage: &Stage, file: &str) -> Helper {
    let cgroup = stage.cgroup.as_deref().expect("this scene wants --cgroup");
    Helper::start(Some(&cgroup.join(file)))
}

fn usage(cgroup: &Path) -> u64 {
    let text = std::fs::read_to_string(cgroup.join("memory.usage_in_bytes")).expect("the cgroup's usage");
    text.trim().parse().expect("a number")
}

/// Offered back, and taken when the cgroup is emptied.
fn free(stage: &mut Stage) {
    let mut helper = cgroup_helper(stage, "memory.force_empty");
    stage.settle();
    stage.join_cgroup();
    let region = Region::anon(2048);
    region.write();
    region.advise(libc::MADV_FREE);
    stage.begin();
    helper.order(Order::WriteNumber, [0; 3]);
    let moved = taken(stage, 1500);
    if moved.swap != 0 {
        stage.fail("pages that were free to take went to swap");
    }
    stage.finish(Check::All, &[Expect::new("madvise.free").pages(moved).placeless()]);
}

/// Its cgroup's limit is lowered by somebody else: that one's thread does the work.
fn memcg(stage: &mut Stage) {
    let mut helper = cgroup_helper(stage, "memory.limit_in_bytes");
    stage.settle();
    stage.join_cgroup();
    let region = Region::anon(8192);
    region.write();
    let limit = usage(stage.cgroup.as_deref().expect("asked above")) - (4096 * page_size()) as u64;
    stage.begin();
    helper.order(Order::WriteNumber, [limit, 0, 0]);
    let moved = taken(stage, 3000);
    if moved.anon != -moved.swap {
        stage.fail(&format!("not every page that left RES is in swap: {moved}"));
    }
    // Mostly the helper's work, but who reads the counters allocates for that in a cgroup at its limit, and then takes
    // some pages itself.
    stage.finish(Check::All, &[Expect::new("reclaim.memcg").pages(moved).placeless()]);
}

/// It runs into its own limit: its faults bring pages in and its own thread takes others, inside the same faults.
fn memcg_own(stage: &mut Stage) {
    let mut helper = cgroup_helper(stage, "memory.limit_in_bytes");
    stage.settle();
    stage.join_cgroup();
    let region = Region::anon(8192);
    let limit = usage(stage.cgroup.as_deref().expect("asked above")) + (4096 * page_size()) as u64;
    helper.order(Order::WriteNumber, [limit, 0, 0]);
    stage.begin();
    region.write();
    let swap = stage.moved().swap;
    if swap < 3000 {
        stage.fail("its limit did not push it into swap");
    }
    stage.finish(
        Check::All,
        &[
            Expect::new("fault.anon").anon(8192).minor(8192).at(&region),
            Expect::new("reclaim.memcg").anon(swap as usize).negative().swap(swap as usize).placeless().by(gettid()),
        ],
    );
}

fn memcg_file(stage: &mut Stage) {
    stage.join_cgroup();
    let file = make_file(&stage.dir, 2048);
    let mut helper = cgroup_helper(stage, "memory.force_empty");
    stage.settle();
    let region = Region::file(&file, 2048, libc::MAP_PRIVATE);
    region.read();
    stage.begin();
    helper.order(Order::WriteNumber, [0; 3]);
    let moved = taken(stage, 1000);
    stage.finish(Check::All, &[Expect::new("reclaim.memcg").pages(moved).placeless().by(helper.pid())]);
}

/// The machine's own reclaim, asked for through the node's `reclaim` file: the thread that writes it does the work.
/// Each cgroup's pages are taken in proportion, so that a cgroup of its own gives some at each request.
fn node(stage: &mut Stage) {
    stage.join_cgroup();
    let file = make_file(&stage.dir, 8192);
    let mut helper = Helper::start(Some(Path::new("/sys/devices/system/node/node0/reclaim")));
    stage.settle();
    let region = Region::file(&file, 8192, libc::MAP_PRIVATE);
    region.read();
    region.advise(libc::MADV_COLD);
    stage.begin();
    // On a machine that caches much, this cgroup's proportion is small: 64 pages are enough to be told apart.
    for _ in 0..128 {
        // A node that cannot give that much answers EAGAIN, which the order reports: 8 MiB is little.
        helper.order(Order::WriteNumber, [8 << 20, 0, 0]);
        if stage.moved().file <= -200 {
            break;
        }
    }
    let moved = taken(stage, 64);
    stage.finish(Check::All, &[Expect::new("reclaim.direct").pages(moved).placeless().by(helper.pid())]);
}

/// Cold pages, and a caller who makes the machine short of memory.
fn kswapd(stage: &mut Stage) {
    stage.join_cgroup();
    let file = make_file(&stage.dir, 8192);
    stage.settle();
    let region = Region::file(&file, 8192, libc::MAP_PRIVATE);
    region.read();
    region.advise(libc::MADV_COLD);
    stage.begin();
    // The second byte comes when the caller has seen pages go and kswapd sleeps again.
    crate::stage::await_byte();
    let moved = taken(stage, 200);
    stage.finish(Check::All, &[Expect::new("reclaim.kswapd").pages(moved).placeless()]);
}

/// Touches until its cgroup has no more to give.
fn oom_kill(stage: &mut Stage) {
    stage.settle();
    stage.join_cgroup();
    let region = Region::anon(1 << 20);
    stage.begin();
    region.write();
    stage.fail("nobody killed it");
    stage.finish(Check::Nothing, &[]);
}
