//! Any reports, any keys, any size: no panic, and no line longer than the screen.

use super::sample::{self, BEGIN};
use super::*;
use crate::event::{EndReason, Latency, Lost, MmId, StackEnd};
use crate::statement::*;
use crate::units::Amounts;
use memtrace_common::Cause;
use proptest::prelude::*;
use std::sync::Arc;

fn pages() -> impl Strategy<Value = i64> {
    prop_oneof![4 => -5000_i64..5000, 1 => any::<i64>()]
}

fn amounts() -> impl Strategy<Value = Amounts> {
    (pages(), pages(), pages(), pages()).prop_map(|(anon, file, shmem, swap)| Amounts { anon, file, shmem, swap })
}

fn time() -> impl Strategy<Value = u64> {
    prop_oneof![8 => (0_u64..10_000).prop_map(|ms| BEGIN + ms * 1_000_000), 1 => any::<u64>()]
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"postgres".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..40),
        ".{0,12}".prop_map(String::into_bytes)
    ]
}

fn mapping() -> impl Strategy<Value = Arc<MappingRef>> {
    let kinds = vec![Kind::Heap, Kind::Anon, Kind::File, Kind::Library, Kind::SharedAnon, Kind::Several, Kind::Vdso];
    let ranges = prop_oneof![4 => (0_u64..1 << 30, 0_u64..1 << 30), 1 => (any::<u64>(), any::<u64>())];
    (0_u64..12, proptest::sample::select(kinds), name(), ranges, any::<u8>(), proptest::option::of(time())).prop_map(
        |(id, kind, name, (start, end), permissions, birth)| {
            let birth = birth.map(|ts_ns| Birth { ts_ns, nr: 9, tid: 1, stack: None });
            Arc::new(MappingRef { id, kind, name, start, end, permissions, birth })
        },
    )
}

fn stack() -> impl Strategy<Value = Arc<Stack>> {
    let ends = proptest::sample::select(StackEnd::ALL.to_vec());
    (0_u32..20, proptest::collection::vec(name(), 0..6), ends).prop_map(|(id, names, end)| {
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        sample::stack_of(id, &names, end)
    })
}

fn entry() -> impl Strategy<Value = Entry> {
    let causes = proptest::sample::select(Cause::ALL.to_vec());
    let times = (time(), time());
    let ids = (any::<u32>(), proptest::option::of(0_u32..400));
    let places = (proptest::option::of(mapping()), proptest::option::of(stack()));
    (causes, amounts(), places, ids, times, name(), any::<(i64, i64, u64)>(), any::<u32>()).prop_map(
        |(cause, delta, (mapping, stack), (tid, syscall), (first_ns, last_ns), comm, (minor, major, took), sampled)| {
            Entry {
                cause,
                delta,
                faults: Faults { minor, major },
                mapping,
                tid,
                comm,
                syscall,
                latency: Latency { samples: u64::from(sampled), sum_ns: took, max_ns: took, hist: [sampled / 64; 24] },
                stack,
                first_ns,
                last_ns,
            }
        },
    )
}

fn statement() -> impl Strategy<Value = Report> {
    let entries = proptest::collection::vec(entry(), 0..6);
    (0_u32..3, time(), time(), amounts(), amounts(), entries, name()).prop_map(
        |(mm, start_ns, ts_ns, opening, closing, entries, comm)| {
            Report::Statement(Statement {
                mm: MmId(mm),
                pid: 4711 + mm % 2,
                comm,
                start_ns,
                ts_ns,
                opening: Balance { amounts: opening, virt: Some(u64::MAX) },
                closing: Balance { amounts: closing, virt: None },
                unexplained: closing - opening,
                entries,
                lost: Lost { ring: u64::MAX, ..Lost::default() },
            })
        },
    )
}

fn report() -> impl Strategy<Value = Report> {
    let resident = (mapping(), any::<u64>(), any::<u64>()).prop_map(|(mapping, private, shared)| Resident {
        mapping,
        private,
        shared,
        pss: private,
        swap: shared,
        dirty: private,
    });
    let residency = (0_u32..3, time(), proptest::collection::vec(resident, 0..8))
        .prop_map(|(mm, ts_ns, mappings)| Report::Residency(Residency { mm: MmId(mm), pid: 4711, ts_ns, mappings }));
    let change = (mapping(), time(), any::<bool>()).prop_map(|(mapping, ts_ns, born)| {
        Report::Mapping(MappingChange {
            ts_ns,
            mm: MmId(0),
            pid: 4711,
            what: if born { MappingWhat::Born } else { MappingWhat::Died },
            mapping,
            syscall: None,
            tid: 1,
            stack: None,
        })
    });
    let burst = (mapping(), stack(), time(), time(), pages(), any::<u64>()).prop_map(
        |(mapping, stack, start_ns, ts_ns, res, level)| {
            let burst = sample::burst(&mapping, &stack, res);
            Report::Burst(Box::new(Burst { start_ns, ts_ns, level, ..burst }))
        },
    );
    prop_oneof![
        8 => statement(),
        2 => residency,
        2 => change,
        1 => burst,
        1 => stack().prop_map(Report::Stack),
        2 => (0_u64..100).prop_map(sample::tick),
        1 => Just(sample::end(EndReason::Truncated)),
        1 => any::<u64>().prop_map(|n| Report::Loss { ts_ns: n, lost: Lost { records: n, ring: n, ..Lost::default() } }),
    ]
}

fn key() -> impl Strategy<Value = KeyEvent> {
    let codes = [
        KeyCode::Left,
        KeyCode::Right,
        KeyCode::Up,
        KeyCode::Down,
        KeyCode::Enter,
        KeyCode::Esc,
        KeyCode::Tab,
        KeyCode::BackTab,
        KeyCode::Backspace,
        KeyCode::PageUp,
        KeyCode::PageDown,
        KeyCode::Home,
        KeyCode::End,
    ];
    let code = prop_oneof![
        proptest::sample::select(codes.to_vec()),
        proptest::sample::select("123456 [],.<>+-asmdeEcftzp/?".chars().collect::<Vec<_>>()).prop_map(KeyCode::Char),
        any::<char>().prop_map(KeyCode::Char),
    ];
    (code, any::<bool>())
        .prop_map(|(code, shift)| KeyEvent::new(code, if shift { KeyModifiers::SHIFT } else { KeyModifiers::NONE }))
}

#[derive(Clone, Debug)]
enum Step {
    Take(Box<Report>),
    Press(KeyEvent),
    Draw(u16, u16),
}

fn step() -> impl Strategy<Value = Step> {
    let sizes = prop_oneof![Just((80, 24)), Just((200, 60)), (1_u16..260, 1_u16..80)];
    prop_oneof![
        4 => report().prop_map(|report| Step::Take(Box::new(report))),
        4 => key().prop_map(Step::Press),
        2 => sizes.prop_map(|(width, height)| Step::Draw(width, height)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn nothing_breaks_the_screen(
        begun in proptest::bool::weighted(0.9),
        page_size in prop_oneof![9 => Just(4096_u64), 1 => any::<u64>()],
        replay in any::<bool>(),
        color in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..50),
    ) {
        let mut app = App::new(Options { color, replay });
        if begun {
            app.take(&Report::Meta(crate::event::Meta { page_size, ..sample::meta() }));
        }
        for step in steps {
            match step {
                Step::Take(report) => app.take(&report),
                Step::Press(key) => {
                    app.key(key);
                }
                Step::Draw(width, height) => {
                    let buffer = buffer(&mut app, (width, height));
                    prop_assert!(color || is_plain(&buffer));
                }
            }
        }
        app.ended();
        buffer(&mut app, (120, 40));
        for export in ["e", "E"] {
            if let Reaction::Save(save) = press(&mut app, export) {
                prop_assert!(std::str::from_utf8(&save.contents).is_ok());
            }
        }
    }
}
