//! Round trips, damage, hostility.

use super::*;
use crate::event::*;
use crate::units::Amounts;
use memtrace_common::{Cause, HIST_BUCKETS};
use proptest::prelude::*;
use std::io::Write;
use zstd::stream::raw::Encoder;

const KINDS: u64 = 13;

/// An event of each kind in turn, its numbers stirred from `n`.
fn event(n: u64) -> Event {
    let x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let amounts = Amounts { anon: (x >> 50) as i64, file: -((x >> 55) as i64), shmem: 0, swap: (x & 1) as i64 };
    let (mm, ts_ns, pid, tid) = (MmId(n as u32 % 3), (1 << 50) + n * 1_000_003, 4711, 4711 + (x % 5) as u32);
    let name = |n: u64| format!("/usr/lib/lib{}.so\n\u{fffd}", n % 7).into_bytes();
    match n % KINDS {
        0 => Event::Meta(Meta {
            version: "0.1.0".to_owned(),
            pid,
            comm: b"post\xffgres".to_vec(),
            exe: b"/usr/bin/postgres".to_vec(),
            cmdline: b"postgres\0-D\0/var/lib".to_vec(),
            kernel: "6.18.0".to_owned(),
            page_size: 4096,
            mode: Mode::Exact,
            mode_reason: String::new(),
            interval_ns: 100_000_000,
            ts_ns,
            wall_ns: -1,
            spawned: false,
            follow: true,
        }),
        1 => Event::MmOpened(MmOpened {
            mm,
            ts_ns,
            pid,
            comm: b"postgres".to_vec(),
            why: if x & 2 == 0 { Why::Fork { parent: 1 } } else { Why::Exec { left: Some(MmId(1)) } },
            counters: amounts,
            virt: x >> 40,
            start_brk: x >> 16,
            brk: x >> 16,
            start_stack: u64::MAX,
        }),
        2 => Event::MmClosed(MmClosed { mm, ts_ns, counters: Amounts::ZERO }),
        3 => Event::Task(Task {
            mm: (x & 2 == 0).then_some(mm),
            ts_ns,
            pid,
            tid,
            what: if x & 4 == 0 { TaskWhat::ProcessExited { code: 9 } } else { TaskWhat::Forked { child: 7 } },
            comm: Vec::new(),
        }),
        4 => Event::Comm { tid, comm: b"kswapd0".to_vec() },
        5 => Event::Maps(Maps {
            mm,
            begin_ns: ts_ns - 1,
            ts_ns,
            lines: (0..x % 9)
                .map(|i| MapsLine {
                    start: i << 12,
                    end: (i + 1) << 12,
                    permissions: 15,
                    offset: x,
                    device: 254 << 32 | 1,
                    inode: i,
                    name: name(i),
                })
                .collect(),
        }),
        6 => Event::Smaps(Smaps {
            mm,
            ts_ns,
            cost_ns: x >> 44,
            longest_hold_ns: x >> 48,
            before: Some(amounts),
            after: None,
            quiet: true,
            status: amounts,
            mappings: (0..x % 9)
                .map(|i| SmapsMapping { start: i, end: x, rss: x >> i, ..Default::default() })
                .collect(),
        }),
        7 => Event::Overview(Overview {
            mm,
            ts_ns,
            virt: x,
            anon: x >> 1,
            file: x >> 2,
            shmem: x >> 3,
            swap: 0,
            uss: None,
            private_file: Some(4096),
            pss: Some(x),
            hugetlb: 0,
        }),
        8 => Event::Syscall(Syscall {
            mm,
            ts_ns,
            pid,
            tid,
            nr: 9,
            args: [0, x, 3, 34, u64::MAX, 0],
            ret: -12,
            ip: x,
            stack: None,
        }),
        9 => change(n, mm, ts_ns, tid),
        10 => Event::Tick(Tick {
            ts_ns,
            closings: vec![Closing { mm, counters: amounts, virt: Some(x >> 40) }],
            lost: Lost { ring: x & 1, ..Lost::default() },
            own: Own {
                cpu_ns: ts_ns / 100,
                bpf_ns: None,
                bpf_runs: Some(x),
                max_rss: 20 << 20,
                copies: x,
                copied_bytes: x >> 1,
                unwind_ns: x,
                looks: x,
                look_ns: x,
                unseen: x,
                unsearched: x,
            },
        }),
        11 => Event::End(End::new(ts_ns, EndReason::Exited { code: Some(1) })),
        _ => Event::End(End::new(ts_ns, EndReason::Truncated)),
    }
}

/// A merged record as a busy database makes them.
fn change(n: u64, mm: MmId, ts_ns: u64, tid: u32) -> Event {
    let x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let start = 0x7f12_0000_0000 + (x % 40) * 0x20_0000;
    let faults = 1 + x % 300;
    let mut hist = [0; HIST_BUCKETS];
    (hist[3], hist[4]) = ((faults / 16) as u32, (x % 3) as u32);
    Event::Change(Change {
        mm,
        first_ns: ts_ns - 50_000 - x % 90_000_000,
        ts_ns,
        cause: Cause::ALL[(x % 6) as usize],
        delta: Amounts { anon: faults as i64, ..Amounts::ZERO },
        place: Place::Vma { start, end: start + 0x20_0000 },
        touched: (start + (x % 256) * 4096, start + (256 + x % 256) * 4096),
        tid,
        ip: 0x5580_0000_0000 + (x % 60) * 137,
        stack: Some(StackId(x as u32 % 60)),
        nr: None,
        detail: 0,
        faults: faults as i64,
        major: 0,
        kernel_mode: 0,
        latency: Latency { samples: faults / 16, sum_ns: faults * 61, max_ns: 1000 + x % 5000, hist },
    })
}

/// A trace with a frame for each group.
fn write(groups: &[Vec<Event>]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).unwrap();
    for group in groups {
        for event in group {
            writer.push(event).unwrap();
        }
        writer.end_frame().unwrap();
    }
    let written = writer.written();
    let bytes = writer.finish().unwrap();
    assert_eq!(bytes.len() as u64, written + FRAME_HEADER as u64);
    bytes
}

/// All that can be read: events, the error that ended them if one did, the end.
fn read(bytes: &[u8]) -> (Vec<Event>, Option<Error>, Option<ReadEnd>) {
    let mut reader = match Reader::new(bytes) {
        Ok(reader) => reader,
        Err(error) => return (Vec::new(), Some(error), None),
    };
    let (mut events, mut failure) = (Vec::new(), None);
    for event in reader.by_ref() {
        assert!(failure.is_none(), "nothing follows an error");
        match event {
            Ok(event) => events.push(event),
            Err(error) => failure = Some(error),
        }
    }
    assert!(reader.next().is_none());
    (events, failure, reader.end())
}

/// A frame with a right checksum around anything.
fn frame(raw_length: u32, compressed: &[u8]) -> Vec<u8> {
    let mut frame = (compressed.len() as u32).to_le_bytes().to_vec();
    frame.extend_from_slice(&raw_length.to_le_bytes());
    frame.extend_from_slice(&checksum(&frame[..8], compressed).to_le_bytes());
    frame.extend_from_slice(compressed);
    frame
}

fn file(frames: &[u8]) -> Vec<u8> {
    [&MAGIC[..], &FORMAT_VERSION.to_le_bytes(), frames].concat()
}

fn compressed(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write::compress(&mut Encoder::new(1).unwrap(), raw, &mut out).unwrap();
    out
}

fn small() -> (Vec<Vec<Event>>, Vec<u8>) {
    let groups: Vec<Vec<Event>> = (0..4).map(|group| (group * 9..group * 9 + 9).map(event).collect()).collect();
    let bytes = write(&groups);
    (groups, bytes)
}

#[test]
fn every_kind_of_event_comes_back() {
    let (groups, bytes) = small();
    let (events, failure, end) = read(&bytes);
    assert!(failure.is_none(), "{failure:?}");
    assert_eq!(events, groups.concat());
    assert_eq!(end, Some(ReadEnd::Complete));
}

#[test]
fn an_empty_session_is_complete() {
    assert!(matches!(read(&write(&[])), (events, None, Some(ReadEnd::Complete)) if events.is_empty()));
}

#[test]
fn cut_anywhere_it_reads_up_to_the_last_whole_frame() {
    let (groups, bytes) = small();
    let mut ends = vec![FILE_HEADER];
    for count in 1..=groups.len() {
        ends.push(write(&groups[..count]).len() - FRAME_HEADER);
    }
    for length in 0..bytes.len() {
        let (events, failure, end) = read(&bytes[..length]);
        if length < FILE_HEADER {
            assert!(matches!(failure, Some(Error::CutHeader { length: found }) if found == length));
            continue;
        }
        assert!(failure.is_none(), "cut at {length}: {failure:?}");
        let whole = ends.iter().rposition(|end| *end <= length).unwrap();
        assert_eq!(events, groups[..whole].concat(), "cut at {length}");
        assert_eq!(end, Some(ReadEnd::Truncated { at_byte: ends[whole] as u64 }), "cut at {length}");
    }
}

#[test]
fn a_writer_that_was_dropped_leaves_a_truncated_trace() {
    let mut sink = Vec::new();
    let mut writer = Writer::new(&mut sink).unwrap();
    writer.push(&event(9)).unwrap();
    writer.end_frame().unwrap();
    writer.push(&event(22)).unwrap();
    drop(writer);
    let (events, failure, end) = read(&sink);
    assert_eq!((events, end), (vec![event(9)], Some(ReadEnd::Truncated { at_byte: sink.len() as u64 })));
    assert!(failure.is_none());
}

#[test]
fn no_flipped_bit_goes_unnoticed() {
    let (groups, mut bytes) = small();
    let events = groups.concat();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let (found, failure, end) = read(&bytes);
        assert!(events.starts_with(&found), "bit {bit}");
        assert_ne!(end, Some(ReadEnd::Complete), "bit {bit}");
        assert!(failure.is_some() || found.len() < events.len() || bit / 8 >= bytes.len() - FRAME_HEADER, "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn what_is_wrong_is_said() {
    let said = |bytes: &[u8]| read(bytes).1.expect("an error").to_string();
    assert_eq!(
        said(b"\x7fELF\x02\x01\x01\x00\x00\x00\x00"),
        "not a memtrace trace: starts with \"\\x7fELF\\x02\\x01\\x01\\x00\""
    );
    assert_eq!(said(b"{}"), "not a memtrace trace: starts with \"{}\"");
    assert_eq!(said(b""), "the trace ends within its header, after 0 of 10 bytes: nothing was recorded");
    assert_eq!(said(b"MEMTRACE\x05\x00"), "recorded by a newer memtrace: trace format 5, and this one reads 4");
    assert_eq!(said(b"MEMTRACE\x02\x00"), "recorded by an older memtrace: trace format 2, and this one reads 4");
    assert_eq!(said(b"MEMTRACE\x00\x00"), "damaged trace: there is no trace format 0");
    let mut long = write(&[]);
    long.push(0);
    assert_eq!(said(&long), "damaged trace: it ends at byte 22, but the file goes on");
    // A file system that lost the last blocks leaves zeros: no end.
    assert_eq!(said(&file(&[0; 64])), "damaged trace: the checksum of the frame at byte 10 is wrong");
    assert_eq!(said(&file(&frame(8, b"no zstd"))), "damaged trace: the frame at byte 10 cannot be decompressed");
    let end = postcard::to_allocvec(&event(11)).unwrap();
    let raw = [&end[..], &[200]].concat();
    assert_eq!(
        said(&file(&frame(raw.len() as u32, &compressed(&raw)))),
        "damaged trace: event 1 of the frame at byte 10 cannot be decoded"
    );
}

#[test]
fn absurd_lengths_are_refused_before_anything_is_allocated() {
    for (length, raw_length) in [(u32::MAX, 10), (10, u32::MAX), (10, FRAME_LIMIT as u32 + 1), (0, 10), (10, 0)] {
        let lengths = [length.to_le_bytes(), raw_length.to_le_bytes()].concat();
        let crc = checksum(&lengths, &[0; 10][..length.min(10) as usize]).to_le_bytes();
        let bytes = file(&[&lengths[..], &crc, &[0; 10]].concat());
        assert!(matches!(read(&bytes).1, Some(Error::AbsurdLength { at_byte: 10, .. })), "{length} {raw_length}");
    }
}

#[test]
fn a_bomb_is_stopped_at_what_it_claims() {
    let bomb = compressed(&vec![0; 100 << 20]);
    assert!(bomb.len() < 1 << 20);
    for claim in [1, 1 << 20, FRAME_LIMIT as u32] {
        let mut reader = Reader::new(io::Cursor::new(file(&frame(claim, &bomb)))).unwrap();
        assert!(matches!(reader.next(), Some(Err(Error::Compression { .. }))));
    }
    // Claiming more than there is, is noticed too.
    assert!(matches!(read(&file(&frame(12, &compressed(b"eleven byte")))).1, Some(Error::Compression { .. })));
    // A list that claims 2^60 entries in ten bytes.
    let mut raw = vec![5, 0, 0, 0];
    raw.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    let bytes = file(&frame(raw.len() as u32, &compressed(&raw)));
    assert!(matches!(read(&bytes).1, Some(Error::Event { index: 0, .. })));
}

fn large_maps(lines: usize, name: usize) -> Event {
    let line = |i: usize| MapsLine {
        start: i as u64,
        end: i as u64 + 1,
        permissions: 0,
        offset: 0,
        device: 0,
        inode: 0,
        name: vec![b'x'; name],
    };
    Event::Maps(Maps { mm: MmId(0), begin_ns: 0, ts_ns: 0, lines: (0..lines).map(line).collect() })
}

#[test]
fn large_events_have_room_and_too_large_ones_are_left_out() {
    let mut writer = Writer::with_limit(Vec::new(), 100_000).unwrap();
    let (large, too_large) = (large_maps(9, 11_000), large_maps(10, 11_000));
    writer.push(&event(9)).unwrap();
    assert!(matches!(writer.push(&too_large), Err(Error::EventTooLarge { bytes }) if bytes > 110_000));
    // Together with the first event it is too large for one frame.
    writer.push(&large).unwrap();
    writer.push(&event(22)).unwrap();
    let (events, failure, end) = read(&writer.finish().unwrap());
    assert!(failure.is_none(), "{failure:?}");
    assert!(events == [event(9), large, event(22)]);
    assert_eq!(end, Some(ReadEnd::Complete));
}

#[test]
fn frames_are_written_without_ticks_too() {
    let mut writer = Writer::new(Vec::new()).unwrap();
    let header = writer.written();
    writer.push(&large_maps(1, FRAME_TARGET / 2)).unwrap();
    assert_eq!(writer.written(), header);
    writer.push(&large_maps(1, FRAME_TARGET / 2)).unwrap();
    assert!(writer.written() > header);
}

#[test]
fn after_a_failed_write_nothing_is_written() {
    struct Full(Vec<u8>);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = bytes.len().min(60 - self.0.len());
            self.0.extend_from_slice(&bytes[..room]);
            if room == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(room) }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut writer = Writer::new(Full(Vec::new())).unwrap();
    writer.push(&event(0)).unwrap();
    assert!(matches!(writer.end_frame(), Err(Error::Write(_))));
    assert!(matches!(writer.push(&event(1)), Err(Error::Stopped)));
    assert!(matches!(writer.end_frame(), Err(Error::Stopped)));
    assert_eq!(writer.written(), FILE_HEADER as u64);
    assert!(matches!(writer.finish(), Err(Error::Stopped)));
}

#[test]
fn files_are_created_but_not_overwritten_by_accident() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a trace");
    create(&path, false).unwrap().write_all(b"something long").unwrap();
    let error = create(&path, false).unwrap_err();
    assert_eq!(error.to_string(), format!("{} exists already (--force overwrites it)", path.display()));
    assert_eq!(std::fs::read(&path).unwrap(), b"something long");
    create(&path, true).unwrap().write_all(b"new").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    assert!(matches!(create(directory.path(), true), Err(Error::Create { .. })));
    assert!(matches!(create(&directory.path().join("no/such"), false), Err(Error::Create { .. })));
    // What an attempt left that failed at once is not in the way of the next.
    std::fs::write(&path, b"").unwrap();
    create(&path, false).unwrap().write_all(b"again").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"again");
    create(Path::new("/dev/null"), false).unwrap().write_all(b"gone").unwrap();
}

/// A minute of a busy database: 600 ticks with 40 merged records each.
#[test]
fn a_busy_minute_stays_small() {
    let mut writer = Writer::new(Vec::new()).unwrap();
    let mut n = 0;
    for tick in 0..600u64 {
        for _ in 0..40 {
            n += 1;
            writer.push(&change(n, MmId(0), (1 << 50) + tick * 100_000_000 + n, 4711)).unwrap();
        }
        writer.push(&event(10 + KINDS * tick)).unwrap();
        writer.end_frame().unwrap();
    }
    let per_event = writer.written() as f64 / (n + 600) as f64;
    assert!(per_event < 25.0, "{per_event:.1} bytes an event");
}

proptest! {
    #[test]
    fn any_sequence_in_any_frames(groups in prop::collection::vec(prop::collection::vec(any::<u32>(), 0..30), 0..6)) {
        let groups: Vec<Vec<Event>> =
            groups.into_iter().map(|group| group.into_iter().map(|n| event(u64::from(n) + 1)).collect()).collect();
        let (events, failure, end) = read(&write(&groups));
        prop_assert!(failure.is_none());
        prop_assert_eq!(events, groups.concat());
        prop_assert_eq!(end, Some(ReadEnd::Complete));
    }

    #[test]
    fn any_file_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..400), is_trace in any::<bool>()) {
        read(&if is_trace { file(&bytes) } else { bytes });
    }

    #[test]
    fn any_frame_with_a_right_checksum_is_survived(bytes in prop::collection::vec(any::<u8>(), 1..400), claim in 1..500u32) {
        read(&file(&frame(claim, &bytes)));
        read(&file(&frame(bytes.len() as u32, &compressed(&bytes))));
    }

    #[test]
    fn damaged_events_are_survived(n in any::<u32>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut raw = postcard::to_allocvec(&event(u64::from(n) + 1)).unwrap();
        let at = at.index(raw.len());
        raw[at] = byte;
        read(&file(&frame(raw.len() as u32, &compressed(&raw))));
    }
}
