//! Several processes together.

use super::*;
use crate::snapshot::Missing;
use crate::snapshot::sharing::Sharing;

/// One that fits on a page: for the document, where each field is to be seen once. In a container without vdso, its program
/// on overlayfs and its data on a disk; as root can read it.
pub(crate) fn small(pid: u32, heap_kib: u64) -> Process {
    const PROGRAM: &str = "/usr/local/bin/store";
    const DATA: &str = "/srv/store/data";
    const OVERLAY: u64 = 45;
    let heap = In { private_dirty: heap_kib - 64, shared_dirty: 64, anonymous: heap_kib, sharers: 2, ..In::default() };
    let data = In { private_clean: 256, private_dirty: 512, shared_clean: 4_096, sharers: 2, ..In::default() };
    let program = mapping(0x55d0_0000_0000, 400, RX, Kind::Program, PROGRAM, In { sharers: 2, ..common(320) });
    let mappings = vec![
        Mapping { device: OVERLAY, ..program },
        mapping(0x55d0_0200_0000, 4_096, RW, Kind::Heap, "[heap]", heap),
        mapping(0x7f12_b000_0000, 16_384, RW | SHARED, Kind::File, DATA, data),
        mapping(0x7ffd_1000_0000, 132, RW, Kind::Stack, "[stack]", own(16)),
    ];
    let mut process = process(pid, "store", PROGRAM, "store\0--serve\0", mappings);
    for counters in [&mut process.counters, &mut process.counters_after].into_iter().flatten() {
        counters.page_tables = 84 * KIB;
    }
    let file = |path: &str, device, inode| MappedFile {
        path: path.into(),
        device,
        inode,
        size: None,
        mapped: 0,
        resident: None,
        on_disk: Some(true),
        page_cache: None,
        dirty: None,
        writeback: None,
        writable_shared: false,
    };
    process.files = Some(vec![
        MappedFile {
            size: Some(16 * MIB),
            mapped: 16 * MIB,
            resident: Some(4_864 * KIB),
            page_cache: Some(9 * MIB),
            // Of both processes together.
            dirty: Some(896 * KIB),
            writeback: Some(128 * KIB),
            writable_shared: true,
            ..file(DATA, 8 << 32 | 2, 1_015)
        },
        MappedFile {
            size: Some(400 * KIB - 1_234),
            mapped: 400 * KIB,
            resident: Some(320 * KIB),
            page_cache: Some(400 * KIB),
            ..file(PROGRAM, OVERLAY, 1_020)
        },
    ]);
    let cost = |source, cost_ns, longest_call_ns, calls| SourceCost { source, cost_ns, longest_call_ns, calls };
    process.sources = vec![
        cost(Source::Status, 61_000, 34_000, 2),
        cost(Source::Smaps, 410_000, 398_000, 2),
        cost(Source::Threads, 18_000, 18_000, 1),
        cost(Source::Cachestat, 31_000, 31_000, 1),
        cost(Source::Mincore, 24_000, 24_000, 1),
    ];
    let what = "overlayfs and FUSE do not tell what is dirty (1 file)".to_owned();
    process.given_up = vec![GivenUp { source: Source::Cachestat, reason: Reason::Failed { what } }];
    process
}

/// Two of these that one program forked, and what they share: pages are numbered here and counted as those of live
/// processes are.
pub(crate) fn two(heap_kib: u64) -> Snapshot {
    let processes = vec![small(4_711, heap_kib), small(4_712, heap_kib)];
    let page = processes[0].page_size;
    let mut sharing = Sharing::new(page, usize::MAX);
    for process in &processes {
        sharing.begin_process();
        for (index, mapping) in process.mappings.iter().flatten().enumerate() {
            let sums = Sums::from(mapping);
            let file =
                (mapping.inode != 0).then(|| sharing.file(mapping.device, mapping.inode, mapping.kind, &mapping.name));
            sharing.add_exclusive(file, sums.private().unwrap_or_default() / page);
            let object = file.unwrap_or_else(|| sharing.anonymous(mapping.kind, &mapping.name));
            // What is shared is the same page frames in both: far enough apart for each mapping to have its own.
            for at in 0..sums.shared().unwrap_or_default() / page {
                sharing.add_page((index as u64) << 20 | at, object, index).expect("there is room");
            }
        }
    }
    // Nobody else maps them.
    let twice = |_, counts: &mut [u64]| {
        counts.fill(2);
        Ok::<_, ()>(())
    };
    sharing.count_outside(twice).expect("always");
    let sums = crate::snapshot::diff::Together::of(&processes);
    Snapshot {
        page_maps: Vec::new(),
        group: Some(Group {
            pids: sums.pids,
            sum_res: sums.levels.sum_res.unwrap_or_default(),
            sum_pss: sums.levels.sum_pss,
            physical: Some(sharing.finish()),
            given_up: Vec::new(),
            sources: vec![
                SourceCost { source: Source::Pagemap, cost_ns: 1_240_000, longest_call_ns: 96_000, calls: 14 },
                SourceCost { source: Source::Kpage, cost_ns: 310_000, longest_call_ns: 11_000, calls: 5 },
            ],
            ..Group::default()
        }),
        processes,
        missing: Missing::default(),
    }
}

/// Nine backends, by physical page where that may be looked at.
pub(crate) fn group(physical: bool) -> Snapshot {
    const BUFFERS: u64 = 1_024 * MIB;
    let processes: Vec<Process> = (0..9)
        .map(|i| {
            let mut process = postgres();
            process.pid += i;
            let buffers = process.mappings.iter_mut().flatten().find(|m| m.kind == Kind::SharedAnon);
            if let Some((resident, detail)) = buffers.and_then(|m| m.resident.as_mut().zip(m.detail.as_mut())) {
                (resident.rss, detail.private_dirty, detail.shared_dirty) = (BUFFERS, 0, BUFFERS - detail.shared_clean);
            }
            for counters in [&mut process.counters, &mut process.counters_after].into_iter().flatten() {
                counters.shmem = BUFFERS + 32 * KIB;
            }
            process
        })
        .collect();
    let sum_res: u64 = processes.iter().filter_map(|p| p.counters).map(|c| c.res()).sum();
    let each = BUFFERS + 7 * MIB;
    let alone = sum_res / 9 - each;
    let objects = vec![
        SharedObject {
            kind: Kind::SharedAnon,
            name: b"/dev/zero (deleted)".to_vec(),
            device: 1,
            inode: 5,
            processes: 9,
            res: BUFFERS,
            shared: BUFFERS,
            sum_res: 9 * BUFFERS,
        },
        SharedObject {
            kind: Kind::Program,
            name: POSTGRES.into(),
            device: 8 << 32 | 2,
            inode: 1_035,
            processes: 9,
            res: 5 * MIB,
            shared: 5 * MIB,
            sum_res: 45 * MIB,
        },
        SharedObject {
            kind: Kind::Heap,
            name: b"[heap]".to_vec(),
            device: 0,
            inode: 0,
            processes: 9,
            res: 12 * MIB,
            shared: 2 * MIB,
            sum_res: 28 * MIB,
        },
    ];
    let pairs = (0..9).flat_map(|a| (a + 1..9).map(move |b| Pair { a, b, shared: each - (a + b) as u64 * 64 * KIB }));
    let physical_pages = Physical {
        res: each + 9 * alone,
        uss: each + 9 * alone - 4 * MIB,
        shared_with_group: vec![each; 9],
        pairs: Some(pairs.collect()),
        objects,
        links: vec![Link { a: 4, b: 4, shared: BUFFERS }, Link { a: 1, b: 1, shared: 4_400 * KIB }],
    };
    let missing =
        GivenUp { source: Source::Pagemap, reason: Reason::NotPermitted { capability: "CAP_SYS_ADMIN".to_owned() } };
    let cost = SourceCost { source: Source::Pagemap, cost_ns: 41_000_000, longest_call_ns: 800_000, calls: 180 };
    Snapshot {
        page_maps: Vec::new(),
        group: Some(Group {
            pids: processes.iter().map(|p| p.pid).collect(),
            sum_res,
            sum_pss: processes.iter().map(|p| Some(p.rollup?.pss)).sum(),
            physical: physical.then_some(physical_pages),
            given_up: if physical { Vec::new() } else { vec![missing] },
            sources: if physical { vec![cost] } else { Vec::new() },
            changed: if physical { 84 * KIB } else { 0 },
            ..Group::default()
        }),
        processes,
        missing: Missing { vanished: 1, ..Missing::default() },
    }
}
