//! Snapshots made by hand for the views' tests, and for the examples in docs/ndjson.md. Their sums agree: counters and
//! rollup are made from the mappings.

use crate::event::permission::{EXECUTE, READ, SHARED, WRITE};
use crate::snapshot::rows::Sums;
use crate::snapshot::{
    Allocator, Counters, Detail, GivenUp, Group, Link, MappedFile, Mapping, Pair, Physical, Process, Reason, Resident,
    Rollup, SharedObject, Snapshot, Source, SourceCost, Thread,
};
use crate::statement::Kind;

mod group;
pub(crate) use group::{group, small, two};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const POSTGRES: &str = "/usr/lib/postgresql/15/bin/postgres";
const INDEX: &str = "/var/lib/postgresql/15/main/vectors.idx";
const R: u8 = READ;
const RW: u8 = READ | WRITE;
const RX: u8 = READ | EXECUTE;

/// What of a mapping is in memory, KiB.
#[derive(Clone, Copy, Default)]
struct In {
    private_clean: u64,
    private_dirty: u64,
    shared_clean: u64,
    shared_dirty: u64,
    /// Of all these.
    anonymous: u64,
    swap: u64,
    huge: u64,
    /// Processes that map what is shared.
    sharers: u64,
}

fn mapping(start: u64, kib: u64, permissions: u8, kind: Kind, name: &str, here: In) -> Mapping {
    let shared = here.shared_clean + here.shared_dirty;
    let private = here.private_clean + here.private_dirty;
    let of_file = name.starts_with('/');
    Mapping {
        device: if of_file { 8 << 32 | 2 } else { 0 },
        inode: if of_file { 1_000 + name.len() as u64 } else { 0 },
        name: name.as_bytes().to_vec(),
        resident: Some(Resident {
            rss: (private + shared) * KIB,
            anonymous: here.anonymous * KIB,
            swap: Some(here.swap * KIB),
            huge: here.huge * KIB,
        }),
        detail: Some(Detail {
            pss: private * KIB + shared * KIB / here.sharers.max(1),
            private_clean: here.private_clean * KIB,
            private_dirty: here.private_dirty * KIB,
            shared_clean: here.shared_clean * KIB,
            shared_dirty: here.shared_dirty * KIB,
            swap_pss: here.swap * KIB,
            ..Detail::default()
        }),
        ..Mapping::bare(start, start + kib * KIB, permissions, kind)
    }
}

/// Anonymous and private, KiB.
fn own(dirty: u64) -> In {
    In { private_dirty: dirty, anonymous: dirty, ..In::default() }
}

/// Of a file and mapped by others too, KiB.
fn common(clean: u64) -> In {
    In { shared_clean: clean, sharers: 12, ..In::default() }
}

/// A process of these mappings, of which everything is known.
fn process(pid: u32, comm: &str, exe: &str, cmdline: &str, mappings: Vec<Mapping>) -> Process {
    let sums: Sums = mappings.iter().sum();
    let (resident, detail) = (sums.resident.unwrap_or_default(), sums.detail.unwrap_or_default());
    let shmem = |kind| matches!(kind, Kind::SharedAnon | Kind::SysvShm | Kind::PosixShm | Kind::Memfd);
    let sum = |of: &dyn Fn(&Mapping, Resident, Detail) -> u64| {
        mappings.iter().map(|m| of(m, m.resident.unwrap_or_default(), m.detail.unwrap_or_default())).sum::<u64>()
    };
    let counters = Counters {
        virt: sums.size,
        anon: resident.anonymous,
        file: sum(&|m, r, _| if shmem(m.kind) { 0 } else { r.rss - r.anonymous }),
        shmem: sum(&|m, r, _| if shmem(m.kind) { r.rss - r.anonymous } else { 0 }),
        swap: sum(&|m, r, _| if shmem(m.kind) { 0 } else { r.swap.unwrap_or(0) }),
        hugetlb: detail.hugetlb,
        locked: 0,
        page_tables: 912 * KIB,
    };
    let rollup = Rollup {
        rss: resident.rss,
        pss: detail.pss,
        private_clean: detail.private_clean,
        private_dirty: detail.private_dirty,
        shared_clean: detail.shared_clean,
        shared_dirty: detail.shared_dirty,
        anonymous: resident.anonymous,
        swap: resident.swap.unwrap_or(0),
        swap_pss: detail.swap_pss,
        hugetlb: detail.hugetlb,
        locked: detail.locked,
        private_file: Some(sum(&|_, r, d| if r.anonymous == 0 { d.private_clean + d.private_dirty } else { 0 })),
    };
    Process {
        pid,
        start_time: 184_467 + u64::from(pid),
        comm: comm.as_bytes().to_vec(),
        exe: Some(exe.as_bytes().to_vec()),
        cmdline: cmdline.as_bytes().to_vec(),
        time_ns: 1_769_860_803_120_000_000,
        page_size: 4096,
        state: b'S',
        counters: Some(counters),
        counters_after: Some(counters),
        rollup: Some(rollup),
        mappings: Some(mappings),
        files: Some(Vec::new()),
        sources: vec![
            SourceCost { source: Source::Status, cost_ns: 61_000, longest_call_ns: 34_000, calls: 4 },
            SourceCost { source: Source::Smaps, cost_ns: 1_310_000, longest_call_ns: 214_000, calls: 9 },
            SourceCost { source: Source::Cachestat, cost_ns: 88_000, longest_call_ns: 12_000, calls: 24 },
        ],
        given_up: Vec::new(),
    }
}

fn library(at: u64, path: &str, text_kib: u64, here: u64) -> [Mapping; 3] {
    let data = at + (text_kib + 512) * KIB;
    [
        mapping(at, 256, R, Kind::Library, path, common((here / 4).min(200))),
        mapping(at + 256 * KIB, text_kib, RX, Kind::Library, path, common(here)),
        mapping(data, 24, RW, Kind::Library, path, own(20)),
    ]
}

/// A PostgreSQL backend in a hash join, with a mapped index, a thread and something in swap.
pub(crate) fn postgres() -> Process {
    let mut mappings = vec![
        mapping(0x55d0_0000_0000, 828, R, Kind::Program, POSTGRES, common(600)),
        mapping(0x55d0_000d_0000, 5_000, RX, Kind::Program, POSTGRES, In { private_clean: 120, ..common(4_400) }),
        mapping(
            0x55d0_0080_0000,
            300,
            RW,
            Kind::Program,
            POSTGRES,
            In { private_dirty: 140, shared_dirty: 40, anonymous: 180, sharers: 12, ..In::default() },
        ),
        mapping(
            0x55d0_0200_0000,
            14_000,
            RW,
            Kind::Heap,
            "[heap]",
            In { private_dirty: 1_200, shared_dirty: 96, anonymous: 1_296, swap: 3_072, sharers: 12, ..In::default() },
        ),
        mapping(
            0x7f12_0000_0000,
            1_064 * 1_024,
            RW | SHARED,
            Kind::SharedAnon,
            "/dev/zero (deleted)",
            In {
                shared_clean: 2_048,
                shared_dirty: 253 * 1_024,
                private_dirty: 640,
                swap: 1_024,
                sharers: 11,
                ..In::default()
            },
        ),
        mapping(0x7f12_a400_0000, 96 * 1_024, RW, Kind::Anon, "", own(61_644)),
        mapping(0x7f12_aa00_0000, 64 * 1_024, RW, Kind::Arena, "", In { huge: 2_048, ..own(8_200) }),
        mapping(
            0x7f12_b000_0000,
            1_024 * 1_024,
            RW | SHARED,
            Kind::File,
            INDEX,
            In { private_clean: 2_048, private_dirty: 1_024, shared_clean: 200 * 1_024, sharers: 4, ..In::default() },
        ),
        mapping(0x7f12_f1ff_f000, 4, 0, Kind::Guard, "", In::default()),
        mapping(0x7f12_f200_0000, 8_192, RW, Kind::ThreadStack, "", own(16)),
        mapping(0x7f12_f300_0000, 16, RW, Kind::Anon, "work area", own(16)),
        mapping(
            0x7f12_f310_0000,
            1_024,
            RW | SHARED,
            Kind::PosixShm,
            "/dev/shm/PostgreSQL.3271041",
            In { shared_dirty: 28, sharers: 12, ..In::default() },
        ),
        mapping(
            0x7f12_f320_0000,
            4,
            RW | SHARED,
            Kind::SysvShm,
            "/SYSV0052e2c1 (deleted)",
            In { shared_dirty: 4, sharers: 12, ..In::default() },
        ),
    ];
    mappings.extend(library(0x7f12_f400_0000, "/usr/lib/x86_64-linux-gnu/libicudata.so.72.1", 30_000, 200));
    mappings.extend(library(0x7f12_f700_0000, "/usr/lib/x86_64-linux-gnu/libcrypto.so.3", 3_300, 900));
    mappings.extend(library(0x7f12_f800_0000, "/usr/lib/x86_64-linux-gnu/libc.so.6", 1_400, 1_200));
    mappings.push(mapping(0x7ffd_1000_0000, 132, RW, Kind::Stack, "[stack]", own(44)));
    mappings.push(mapping(0x7ffd_1010_0000, 16, R, Kind::Vdso, "[vvar]", In::default()));
    mappings.push(mapping(0x7ffd_1010_4000, 8, RX, Kind::Vdso, "[vdso]", common(4)));
    for mapping in &mut mappings {
        match mapping.kind {
            Kind::ThreadStack => mapping.thread = Some(Thread { tid: 4_720, comm: b"llvm-worker".to_vec() }),
            Kind::Arena => mapping.allocator = Some(Allocator::Glibc),
            _ => {}
        }
    }
    let mut process = process(4_711, "postgres", POSTGRES, "postgres: 15/main: shop shop [local] SELECT\0", mappings);
    process.files = Some(vec![
        MappedFile {
            path: INDEX.into(),
            device: 8 << 32 | 2,
            inode: 1_039,
            size: Some(1_024 * MIB - 100),
            mapped: 1_024 * MIB,
            resident: Some(203 * MIB),
            on_disk: Some(true),
            page_cache: Some(730 * MIB),
            dirty: Some(12 * MIB),
            writeback: Some(MIB),
            writable_shared: true,
        },
        MappedFile {
            path: POSTGRES.into(),
            device: 8 << 32 | 2,
            inode: 1_035,
            size: Some(9_300 * KIB),
            mapped: 6_128 * KIB,
            resident: Some(5_120 * KIB),
            on_disk: Some(true),
            page_cache: Some(9_300 * KIB),
            dirty: Some(0),
            writeback: Some(0),
            writable_shared: false,
        },
        MappedFile {
            path: b"/usr/lib/x86_64-linux-gnu/libc.so.6".to_vec(),
            device: 8 << 32 | 2,
            inode: 1_035,
            size: None,
            mapped: 1_680 * KIB,
            resident: Some(1_500 * KIB),
            on_disk: None,
            page_cache: None,
            dirty: None,
            writeback: None,
            writable_shared: false,
        },
    ]);
    process
}

/// Another user's process: counters are everyone's to read, mappings are not.
pub(crate) fn not_permitted() -> Process {
    let given_up =
        |source| GivenUp { source, reason: Reason::NotPermitted { capability: "CAP_SYS_PTRACE".to_owned() } };
    Process {
        exe: None,
        rollup: None,
        mappings: None,
        files: None,
        sources: vec![SourceCost { source: Source::Status, cost_ns: 61_000, longest_call_ns: 34_000, calls: 4 }],
        given_up: vec![given_up(Source::Maps), given_up(Source::Smaps), given_up(Source::Rollup)],
        ..postgres()
    }
}

/// Too large for smaps within the budget: only what PAGEMAP_SCAN says is known. And it changed while it was read.
pub(crate) fn over_budget() -> Process {
    let mut process = postgres();
    process.rollup = None;
    process.mappings.iter_mut().flatten().for_each(|mapping| mapping.detail = None);
    if let Some(after) = &mut process.counters_after {
        after.anon += 5 * MIB;
        after.file -= 256 * KIB;
    }
    process.sources = vec![
        SourceCost { source: Source::Status, cost_ns: 61_000, longest_call_ns: 34_000, calls: 4 },
        SourceCost { source: Source::Maps, cost_ns: 410_000, longest_call_ns: 90_000, calls: 3 },
        SourceCost { source: Source::PagemapScan, cost_ns: 9_800_000, longest_call_ns: 1_900_000, calls: 31 },
    ];
    let reason = Reason::OverBudget { estimate_ns: 412_000_000, limit_ns: 50_000_000 };
    process.given_up = vec![
        GivenUp { source: Source::Smaps, reason: reason.clone() },
        GivenUp { source: Source::Rollup, reason },
        GivenUp { source: Source::Cachestat, reason: Reason::NotOffered },
    ];
    process
}

/// It has ended and waits for its parent.
pub(crate) fn zombie() -> Process {
    Process {
        pid: 4_713,
        comm: b"sh".to_vec(),
        exe: None,
        cmdline: Vec::new(),
        state: b'Z',
        counters: None,
        counters_after: None,
        rollup: None,
        mappings: None,
        files: None,
        given_up: vec![GivenUp { source: Source::Maps, reason: Reason::Gone }],
        ..postgres()
    }
}

/// Every name tries to drive the terminal, and hugetlb, KSM and locked memory are in it.
pub(crate) fn hostile() -> Process {
    let mut mappings = vec![
        mapping(0x1000, 8, RX, Kind::Program, "/tmp/\u{1b}[2J\nRES 0", In { private_clean: 8, ..In::default() }),
        mapping(0x10_0000, 64, RW, Kind::Anon, "x\u{202e}y", own(12)),
        mapping(0x20_0000, 4_096, RW, Kind::Hugetlb, "/anon_hugepage (deleted)", In::default()),
        mapping(0x80_0000, 400, RW, Kind::ThreadStack, "", own(8)),
        mapping(0x90_0000, 400, RW | SHARED, Kind::File, "", In { private_dirty: 16, ..In::default() }),
    ];
    mappings[4].name = b"/srv/\xff\xfe,\"=1+1\r\n".to_vec();
    mappings[4].inode = 77;
    mappings[3].thread = Some(Thread { tid: 9, comm: b"\x1b[31mred".to_vec() });
    if let Some(detail) = &mut mappings[1].detail {
        (detail.ksm, detail.locked) = (4 * KIB, 12 * KIB);
    }
    if let Some(detail) = &mut mappings[2].detail {
        detail.hugetlb = 4 * MIB;
    }
    let mut process = process(6, "\u{1b}]0;title\u{7}", "/tmp/\u{1b}[2J\nRES 0", "a\0\u{1b}[1mb\0", mappings);
    process.files = Some(vec![MappedFile {
        path: b"/srv/\xff\xfe,\"=1+1\r\n".to_vec(),
        device: 8 << 32 | 2,
        inode: 77,
        size: Some(409_600),
        mapped: 409_600,
        resident: Some(16 * KIB),
        on_disk: Some(true),
        page_cache: Some(400 * KIB),
        dirty: Some(16 * KIB),
        writeback: Some(0),
        writable_shared: true,
    }]);
    process.given_up =
        vec![GivenUp { source: Source::Threads, reason: Reason::Failed { what: "no\u{1b}[0msuch thing".to_owned() } }];
    process
}
