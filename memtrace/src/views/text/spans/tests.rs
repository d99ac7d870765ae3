//! What is printed of hand-made edges.

use super::super::TextOptions;
use super::super::tests::text_with;
use crate::cli::Only;
use crate::event::{
    Backend, CausePages, Edge, End, EndReason, Event, Meta, MmId, MmOpened, SpanEdge, SpanSums, Syscall, Task,
    TaskWhat, Why,
};
use crate::model::Model;
use crate::statement::Report;
use crate::syscalls;
use crate::units::Amounts;
use crate::views::sample::{BEGIN, MS, PID, meta};
use memtrace_common::Cause;
use std::collections::BTreeMap;

const ONLY: TextOptions = TextOptions {
    color: false,
    threshold_bytes: None,
    width: 100,
    utc_offset: time::UtcOffset::UTC,
    closing_only: false,
    only: Some(Only::Spans),
    verbose: false,
};

/// What a thread did before an edge.
#[derive(Clone, Copy, Default)]
struct Did {
    anon: i64,
    shmem: i64,
    /// Of file pages, read from disk.
    file: i64,
    /// What munmap gave back.
    freed: i64,
    peak: i64,
    /// What others did meanwhile.
    others: i64,
}

const NOTHING: Did = Did { anon: 0, shmem: 0, file: 0, freed: 0, peak: 0, others: 0 };

/// Edges of a server's backends, by hand.
struct Scene {
    model: Model,
    reports: Vec<Report>,
    counters: BTreeMap<u32, Amounts>,
}

impl Scene {
    fn new(follow: bool) -> Self {
        let mut scene = Self { model: Model::new(), reports: Vec::new(), counters: BTreeMap::new() };
        scene.apply(Event::Meta(Meta { follow, ..meta() }));
        scene.opened(PID, Why::Attach);
        scene
    }

    fn apply(&mut self, event: Event) {
        self.model.apply(&event, &mut self.reports);
    }

    /// Processes have the mm of their number.
    fn opened(&mut self, pid: u32, why: Why) {
        let counters = Amounts { anon: 10_496, file: 4_659, shmem: 64_819, swap: 0 };
        self.counters.insert(pid, counters);
        self.apply(Event::MmOpened(MmOpened {
            mm: MmId(pid),
            ts_ns: BEGIN,
            pid,
            comm: b"postgres".to_vec(),
            why,
            counters,
            virt: 0,
            start_brk: 0,
            brk: 0,
            start_stack: 0,
        }));
    }

    fn edge(&mut self, pid: u32, at_ms: u64, edge: Edge, did: Did) {
        self.edge_of(("postgresql", pid, pid), at_ms, edge, did);
    }

    fn edge_of(&mut self, (name, pid, tid): (&str, u32, u32), at_ms: u64, edge: Edge, did: Did) {
        let delta = Amounts { anon: did.anon - did.freed, file: did.file, shmem: did.shmem, swap: 0 };
        let counters = self.counters.get_mut(&pid).expect("opened before");
        *counters += delta + Amounts { anon: did.others, ..Amounts::ZERO };
        let counters = *counters;
        let causes = [
            (Cause::FaultAnon, did.anon),
            (Cause::FaultFileRead, did.file),
            (Cause::FaultShmem, did.shmem),
            (Cause::Munmap, -did.freed),
        ];
        let mut causes: Vec<_> = causes.map(|(cause, pages)| CausePages { cause, pages }).to_vec();
        causes.retain(|of| of.pages != 0);
        causes.sort_by_key(|of| of.cause);
        let faults = did.anon + did.shmem + did.file;
        let samples = faults.unsigned_abs() / 16;
        let sums = SpanSums {
            delta,
            peak: did.peak.max(did.anon + did.shmem + did.file),
            faults,
            major: did.file,
            latency_sum_ns: samples * 2_000,
            latency_max_ns: if samples > 0 { 3_000 } else { 0 },
            latency_samples: samples,
            causes,
        };
        let (mm, ts_ns, name) = (MmId(pid), BEGIN + at_ms * MS, name.to_owned());
        self.apply(Event::Span(Box::new(SpanEdge { mm, ts_ns, pid, tid, name, edge, counters, sums })));
    }

    fn says(&mut self, pid: u32, at_ms: u64, query: &str, for_ms: i64) {
        self.apply(Event::Backend(Box::new(Backend {
            ts_ns: BEGIN + at_ms * MS,
            pid,
            server: "postgresql".into(),
            version: Some(15),
            backend_type: Some("client backend".into()),
            state: Some("active".into()),
            query: Some(query.into()),
            query_start_ns: Some(meta().wall_ns - for_ms * MS as i64),
            ..Backend::default()
        })));
    }

    fn call(&mut self, pid: u32, nr: u32, args: [u64; 6], ret: i64) {
        let (mm, ts_ns) = (MmId(pid), BEGIN);
        self.apply(Event::Syscall(Syscall { mm, ts_ns, pid, tid: pid, nr, args, ret, ip: 0, stack: None }));
    }

    /// What is printed of it, when the session ends at 5.0 s.
    fn text(mut self, options: TextOptions) -> String {
        self.apply(Event::End(End::new(BEGIN + 5_000 * MS, EndReason::Duration)));
        text_with(options, &self.reports)
    }
}

fn begin(text: &str) -> Edge {
    Edge::Begin { text: Some(text.into()) }
}

#[test]
fn one_backend() {
    let mut scene = Scene::new(false);
    scene.edge(PID, 100, begin("select count(*)\n  from orders\n  join lines using (id)"), Did { anon: 2, ..NOTHING });
    scene.call(PID, syscalls::MMAP, [0, 96 << 20, 3, 0x22, u64::MAX, 0], 0x7f12_a400_0000);
    scene.call(PID, syscalls::MUNMAP, [0x7f12_a400_0000, 96 << 20, 0, 0, 0, 0], 0);
    let did = Did { anon: 15_411, shmem: 1_050, file: 3, freed: 15_400, others: -12, ..NOTHING };
    scene.edge(PID, 312, Edge::End, did);
    scene.edge(PID, 400, begin("select 1"), NOTHING);
    scene.edge(PID, 401, Edge::End, NOTHING);
    scene.edge(PID, 500, begin("vacuum"), NOTHING);
    scene.edge(PID, 5_000, Edge::Cut, Did { anon: 100, ..NOTHING });
    insta::assert_snapshot!(scene.text(ONLY));
}

#[test]
fn in_colour_and_with_more_of_it() {
    let mut scene = Scene::new(false);
    let long = format!("select {} from t", ["something_long"; 20].join(", "));
    scene.edge(PID, 100, begin(&long), NOTHING);
    scene.edge(PID, 2_312, Edge::End, Did { anon: 300, freed: 260, ..NOTHING });
    let options = TextOptions { color: true, verbose: true, width: 72, ..ONLY };
    insta::assert_snapshot!(scene.text(options).replace('\x1b', "␛"));
}

#[test]
fn what_began_before() {
    let mut scene = Scene::new(false);
    scene.says(PID, 50, "update accounts set v = 2", 312_000);
    scene.edge(PID, 2_000, Edge::End, Did { shmem: 40, ..NOTHING });
    insta::assert_snapshot!(scene.text(ONLY));
    // Nobody says what it was.
    let mut scene = Scene::new(false);
    scene.edge(PID, 2_000, Edge::End, Did { shmem: 40, ..NOTHING });
    let text = scene.text(ONLY);
    assert!(text.contains("≥ 2.0 s, began before it was watched") && text.contains("(text unknown)"), "{text}");
}

#[test]
fn none_ended() {
    let mut scene = Scene::new(false);
    scene.says(PID, 50, "select pg_sleep(1000)", 12_000);
    scene.edge(PID, 5_000, Edge::Cut, Did { anon: 4, ..NOTHING });
    insta::assert_snapshot!(scene.text(ONLY));
}

#[test]
fn nothing_at_all() {
    assert_eq!(Scene::new(false).text(ONLY), "no statement or span began or ended in 5.0 s\n");
    let mut idle = Scene::new(false);
    idle.edge(PID, 5_000, Edge::Cut, Did { anon: 4, ..NOTHING });
    insta::assert_snapshot!(idle.text(ONLY));
}

#[test]
fn several_backends() {
    let mut scene = Scene::new(true);
    for nth in 0..14_u32 {
        let pid = 4_800 + nth;
        scene.opened(pid, Why::Fork { parent: PID });
        let at = u64::from(nth) * 100;
        scene.edge(pid, at, begin(&format!("select {nth}")), Did { anon: 20, ..NOTHING });
        scene.edge(pid, at + 1 + 7 * u64::from(nth % 5), Edge::End, Did { anon: i64::from(nth * nth), ..NOTHING });
        scene.edge(pid, at + 50, begin("select 'to the end'"), NOTHING);
        if nth == 3 {
            let what = TaskWhat::ProcessExited { code: 9 };
            let ts_ns = BEGIN + (at + 60) * MS;
            scene.apply(Event::Task(Task { mm: None, ts_ns, pid, tid: pid, what, comm: b"postgres".to_vec() }));
        } else {
            scene.edge(pid, at + 55, Edge::End, NOTHING);
        }
    }
    let text = scene.text(ONLY);
    let (_, answer) = text.split_once("── ").expect("a rule before the table");
    insta::assert_snapshot!(answer);
    assert!(text.contains("postgres[4803]  10 ms, until its process ended"), "{text}");
}

#[test]
fn spans_of_any_program_on_several_threads() {
    let mut scene = Scene::new(false);
    for tid in [PID, PID + 1] {
        scene.edge_of(("request", PID, tid), 100, Edge::Begin { text: None }, NOTHING);
        scene.edge_of(("gc", PID, tid), 110, Edge::Begin { text: None }, Did { anon: 5, ..NOTHING });
        scene.edge_of(("gc", PID, tid), 120, Edge::End, Did { freed: 900, ..NOTHING });
        scene.edge_of(("request", PID, tid), 130, Edge::End, Did { shmem: 7, ..NOTHING });
    }
    insta::assert_snapshot!(scene.text(ONLY));
}

#[test]
fn a_hostile_text_stays_on_its_line() {
    let mut scene = Scene::new(false);
    let text = b"select \x1b]0;owned\x07\r\n\t'\xff\xe2\x80\xae' \xe5\xa4\xa7\xe5\xa4\xa7".repeat(9);
    scene.edge(PID, 100, Edge::Begin { text: Some(text) }, NOTHING);
    scene.edge(PID, 200, Edge::End, NOTHING);
    let name = "\x1b[31m\nin bytes";
    scene.edge_of((name, PID, PID), 300, Edge::Begin { text: None }, NOTHING);
    scene.edge_of((name, PID, PID), 400, Edge::End, NOTHING);
    let text = scene.text(ONLY);
    assert!(text.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{text}");
    assert!(text.lines().all(|line| crate::views::columns::columns(line) <= 100), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn small_ones_are_left_to_the_table_when_asked() {
    let scene = || {
        let mut scene = Scene::new(false);
        for (at, pages) in [(100, 3), (200, 500)] {
            scene.edge(PID, at, begin("select 1"), NOTHING);
            scene.edge(PID, at + 10, Edge::End, Did { anon: pages, ..NOTHING });
        }
        scene
    };
    let told =
        |text: String| text.lines().take_while(|line| !line.starts_with('─')).filter(|l| l.contains("RES")).count();
    assert_eq!(told(scene().text(ONLY)), 2);
    assert_eq!(told(scene().text(TextOptions { threshold_bytes: Some(1 << 20), ..ONLY })), 1);
}
