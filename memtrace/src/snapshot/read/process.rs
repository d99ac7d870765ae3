//! One process: its counters, and its mappings from the dearest source that the budget and our rights allow.

use super::scan::scan;
use super::{Costs, read_files, threads};
use crate::cli::ReadOptions;
use crate::event::SmapsMapping;
use crate::kind::{self, Context, Line};
use crate::procfs::{
    Error, MapsHeader, PAGEMAP_BYTES, PrivateFile, ProcessFiles, Refusal, SmapsBudget, SmapsSize, Status, page_size,
    visit_maps, visit_mounts, visit_smaps,
};
use crate::snapshot::allocator::{allocator, java_heap};
use crate::snapshot::{Allocator, Counters, Detail, GivenUp, Mapping, Process, Reason, Resident, Rollup, Source};
use crate::statement::Kind;
use crate::units::nanos;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often a process is read that executes other programs meanwhile.
const ATTEMPTS: usize = 3;

/// A process that has been read.
pub(super) struct Member {
    pub(super) files: ProcessFiles,
    pub(super) process: Process,
    /// Which program was read, by its auxiliary vector: in there are addresses that each exec chooses anew. Empty when
    /// that may not be read, and then nothing that exec could change is.
    program: Vec<u8>,
}

impl Member {
    /// Reads a process: again, when it executed another program meanwhile, because a part of one and a part of the other
    /// would be neither.
    ///
    /// # Errors
    /// There is no such process, or it ended before its counters were read.
    pub(super) fn read(pid: u32, options: &ReadOptions) -> Result<Self, Error> {
        let mut attempt = 1;
        let mut costs = Costs::default();
        loop {
            let mut member = Reading::begin(pid, options, costs)?.finish();
            if !member.has_executed() {
                return Ok(member);
            }
            if attempt == ATTEMPTS {
                member.process.given_up.push(GivenUp { source: Source::Maps, reason: executed(pid) });
                return Ok(member);
            }
            attempt += 1;
            // What is discarded has held it up all the same.
            costs = Costs::from(member.process.sources);
        }
    }

    /// It runs another program than that which was read. One that has ended does not.
    pub(super) fn has_executed(&self) -> bool {
        let lives = || self.files.read_statm().is_ok_and(|statm| statm.virt > 0);
        is_another(&self.program, &read_program(&self.files), lives)
    }
}

/// Of one that goes on, the auxiliary vector may have become unreadable: its program is another user's now (setuid).
fn is_another(before: &[u8], now: &[u8], lives: impl FnOnce() -> bool) -> bool {
    !before.is_empty() && before != now && (!now.is_empty() || lives())
}

/// Why what was read of this process does not fit together.
pub(super) fn executed(pid: u32) -> Reason {
    Reason::Failed { what: format!("process {pid} executed another program while it was read") }
}

fn read_program(files: &ProcessFiles) -> Vec<u8> {
    let mut program = Vec::new();
    if files.read_auxv(&mut program).is_err() {
        program.clear();
    }
    program
}

/// What is being read of one process. Whoever reads more adds to `costs` and to what was given up.
struct Reading {
    files: ProcessFiles,
    process: Process,
    program: Vec<u8>,
    costs: Costs,
    /// Everything was asked for, whatever it costs.
    full: bool,
}

impl Reading {
    /// Opens the process and reads its counters and mappings.
    ///
    /// # Errors
    /// There is no such process, or it ended before its counters were read.
    fn begin(pid: u32, options: &ReadOptions, mut costs: Costs) -> Result<Self, Error> {
        let files = ProcessFiles::open(pid)?;
        let program = read_program(&files);
        let status = costs.time(Source::Status, || files.read_status())?;
        let counters = counters(&status);
        if counters.is_none() {
            return Err(Error::Gone(pid));
        }
        let process = Process {
            pid,
            start_time: files.start_time(),
            // Of a task that stands in for the main thread, status has the task's own name.
            comm: if files.tid() == pid { status.name } else { files.read_comm()? },
            exe: files.read_exe().ok().filter(|exe| !exe.is_empty()),
            cmdline: files.read_cmdline().unwrap_or_default(),
            time_ns: now_ns(),
            page_size: page_size(),
            state: status.state,
            counters,
            counters_after: None,
            rollup: None,
            mappings: None,
            files: None,
            sources: Vec::new(),
            given_up: Vec::new(),
        };
        let mut reading = Self { files, process, program, costs, full: options.full };
        reading.read_mappings(options);
        Ok(reading)
    }

    /// Reads the counters again: what they bound is complete.
    fn finish(mut self) -> Member {
        match self.costs.time(Source::Status, || self.files.read_status()) {
            Ok(status) => match counters(&status) {
                Some(counters) => self.process.counters_after = Some(counters),
                None => self.give_up(Source::Status, Reason::Gone),
            },
            Err(error) => self.give_up(Source::Status, (&error).into()),
        }
        self.process.sources = self.costs.into_sources();
        Member { files: self.files, process: self.process, program: self.program }
    }

    fn give_up(&mut self, source: Source, reason: Reason) {
        self.process.given_up.push(GivenUp { source, reason });
    }

    fn read_mappings(&mut self, options: &ReadOptions) {
        let limit_ns = options.hold_limit().map(nanos);
        let Found { mut mappings, hugetlb, over_budget } = match self.read_by_budget(limit_ns) {
            Ok(found) => found,
            Err(error) => {
                let reason = Reason::from(&error);
                self.give_up(Source::Maps, reason.clone());
                return self.give_up(Source::Smaps, reason);
            }
        };
        self.describe(&mut mappings, &hugetlb);
        if let Some((size, limit_ns)) = over_budget {
            self.read_cheaply(&size, limit_ns, &mut mappings);
        }
        if let Some(given_up) = threads::name_stacks(&self.files, &mut mappings, self.full, &mut self.costs) {
            self.process.given_up.push(given_up);
        }
        if !options.for_diff {
            let (files, given_up) = read_files(&self.files, &mappings, self.full, &mut self.costs);
            self.process.files = Some(files);
            self.process.given_up.extend(given_up);
        }
        self.process.mappings = Some(mappings);
    }

    /// The mappings from smaps, or from maps when that is over budget.
    fn read_by_budget(&mut self, limit_ns: Option<u64>) -> Result<Found, Error> {
        let budget = SmapsBudget::new(0, limit_ns);
        // What is in swap has an entry in the page tables, too.
        let walked =
            self.process.counters.map_or(0, |counters| (counters.res().saturating_add(counters.swap)) / page_size());
        // Most processes are so small that it does not matter where their pages are.
        if budget.check(0, &SmapsSize::at_worst(walked)).is_ok() {
            return self.read_smaps(0);
        }
        let (size, mappings) = self.read_maps(walked)?;
        match budget.check(0, &size) {
            Err(Refusal::HoldTooLong { estimate_ns, limit_ns }) => {
                self.give_up(Source::Smaps, Reason::OverBudget { estimate_ns, limit_ns });
                Ok(Found { mappings, hugetlb: Vec::new(), over_budget: Some((size, limit_ns)) })
            }
            _ => self.read_smaps(mappings.len()),
        }
    }

    /// The mappings without what is in them, and what reading smaps would take.
    fn read_maps(&mut self, walked_pages: u64) -> Result<(SmapsSize, Vec<Mapping>), Error> {
        let mut text = Vec::new();
        self.costs.add_reading(Source::Maps, self.files.read_maps(&mut text)?);
        if text.is_empty() {
            return Err(Error::Gone(self.process.pid));
        }
        let (mut size, mut mappings) = (SmapsSize::new(walked_pages), Vec::new());
        let mut repeated = 0;
        let report = visit_maps(&text, |header| {
            if repeats(&mappings, header) {
                repeated += 1;
                return;
            }
            size.add(header, page_size());
            mappings.push(mapping(header));
        });
        self.note_malformed(Source::Maps, report.malformed);
        self.note_repeated(Source::Maps, repeated);
        Ok((size, mappings))
    }

    /// The mappings with all that smaps says, and their sums. `expected`: how many there may be.
    fn read_smaps(&mut self, expected: usize) -> Result<Found, Error> {
        let mut again = true;
        let (parsed, malformed) = loop {
            let mut parsed = Parsed::new(expected);
            let (cost, report) = self.files.visit_smaps(|header, smaps| parsed.add(header, smaps))?;
            self.costs.add_reading(Source::Smaps, cost);
            if parsed.repeated == 0 || !std::mem::take(&mut again) {
                break (parsed, report.malformed);
            }
        };
        let Parsed { mappings, hugetlb, rollup, private_file, repeated, .. } = parsed;
        if mappings.is_empty() {
            return Err(Error::Gone(self.process.pid));
        }
        self.note_malformed(Source::Smaps, malformed);
        self.note_repeated(Source::Smaps, repeated);
        if malformed == 0 {
            let private_file = self.private_file(&private_file);
            self.process.rollup = Some(Rollup { private_file, ..rollup });
        }
        Ok(Found { mappings, hugetlb, over_budget: None })
    }

    /// File pages that nobody else maps: what smaps leaves open, pagemap tells.
    fn private_file(&mut self, sum: &PrivateFile) -> Option<u64> {
        let limit = if self.full { u64::MAX } else { PAGEMAP_BYTES };
        match self.files.read_private_file(sum, limit) {
            Ok((bytes, cost)) => {
                if cost.reads > 0 {
                    self.costs.add_reading(Source::Pagemap, cost);
                }
                if bytes.is_none() {
                    let (open, most) = (sum.open_bytes() >> 20, limit >> 20);
                    let what = format!(
                        "{open} MiB of addresses would have to be looked at, and {most} are the limit; --full looks at all"
                    );
                    self.give_up(Source::Pagemap, Reason::Failed { what });
                }
                bytes
            }
            Err(error) => {
                self.give_up(Source::Pagemap, (&error).into());
                None
            }
        }
    }

    /// Over budget: what is resident, by ranges of bounded length; PSS and the like only if one walk of all is short enough.
    fn read_cheaply(&mut self, size: &SmapsSize, limit_ns: u64, mappings: &mut [Mapping]) {
        self.process.given_up.extend(scan(
            &self.files,
            mappings,
            self.process.counters,
            Some(Duration::from_nanos(limit_ns)),
            &mut self.costs,
        ));
        let estimate_ns = size.estimate_rollup_ns();
        if estimate_ns > limit_ns {
            return self.give_up(Source::Rollup, Reason::OverBudget { estimate_ns, limit_ns });
        }
        match self.costs.time(Source::Rollup, || self.files.read_rollup()) {
            Ok(Some(rollup)) => self.process.rollup = Some(rollup),
            Ok(None) => self.give_up(Source::Rollup, Reason::Gone),
            Err(error) => self.give_up(Source::Rollup, (&error).into()),
        }
    }

    fn note_malformed(&mut self, source: Source, lines: usize) {
        if lines > 0 {
            self.give_up(source, Reason::Failed { what: format!("{lines} lines of it could not be understood") });
        }
    }

    fn note_repeated(&mut self, source: Source, mappings: usize) {
        if mappings > 0 {
            let what =
                format!("{mappings} mappings were joined with their neighbours while it was read, and are left out");
            self.give_up(source, Reason::Failed { what });
        }
    }

    /// Gives the mappings their kinds, names and allocators.
    fn describe(&mut self, mappings: &mut [Mapping], hugetlb: &[usize]) {
        let mut mounts = Vec::new();
        // Without it, a file on a tmpfs is a file.
        if self.files.read_mounts(&mut mounts).is_err() {
            mounts.clear();
        }
        let mut context = context(self.process.exe.as_deref().unwrap_or_default(), &mounts);
        describe(mappings, hugetlb, &mut context);
    }
}

/// Mappings, their kinds not known yet.
struct Found {
    mappings: Vec<Mapping>,
    /// Indices of those that smaps shows to be of hugetlbfs.
    hugetlb: Vec<usize>,
    /// smaps was not read: what it would have walked, and the limit.
    over_budget: Option<(SmapsSize, u64)>,
}

/// A text of smaps.
#[derive(Default)]
struct Parsed {
    mappings: Vec<Mapping>,
    hugetlb: Vec<usize>,
    rollup: Rollup,
    private_file: PrivateFile,
    /// Mappings left out because a part of them was read before.
    repeated: usize,
    page_size: u64,
}

/// The kernel lets go of the mappings between two `read(2)`s: what was joined with its neighbours meanwhile comes again.
fn repeats(mappings: &[Mapping], header: &MapsHeader<'_>) -> bool {
    mappings.last().is_some_and(|last| header.start < last.end)
}

impl Parsed {
    fn new(expected: usize) -> Self {
        Self { mappings: Vec::with_capacity(expected), page_size: page_size(), ..Self::default() }
    }

    fn add(&mut self, header: &MapsHeader<'_>, smaps: &SmapsMapping) {
        if repeats(&self.mappings, header) {
            self.repeated += 1;
            return;
        }
        if smaps.kernel_page > self.page_size {
            self.hugetlb.push(self.mappings.len());
        }
        self.rollup.add(smaps);
        self.private_file.add(smaps);
        self.mappings.push(Mapping { resident: Some(resident(smaps)), detail: Some(detail(smaps)), ..mapping(header) });
    }
}

/// The mappings and sums of a text of smaps, with everything that is known of them without asking anyone: by the
/// program's path and the text of mountinfo, both empty where unknown. [`Rollup::private_file`] is not known.
#[must_use]
pub fn parse(smaps: &[u8], program: &[u8], mounts: &[u8]) -> (Vec<Mapping>, Rollup) {
    let mut parsed = Parsed::new(0);
    visit_smaps(smaps, |header, mapping| parsed.add(header, mapping));
    let Parsed { mut mappings, hugetlb, rollup, .. } = parsed;
    describe(&mut mappings, &hugetlb, &mut context(program, mounts));
    (mappings, rollup)
}

fn context(program: &[u8], mounts: &[u8]) -> Context {
    let mut context = Context { program: program.into(), ..Context::default() };
    visit_mounts(mounts, |device, file_system| match file_system {
        b"tmpfs" | b"devtmpfs" => context.tmpfs.push(device),
        b"hugetlbfs" => context.hugetlbfs.push(device),
        _ => {}
    });
    context.tmpfs.sort_unstable();
    context.hugetlbfs.sort_unstable();
    context
}

fn describe(mappings: &mut [Mapping], hugetlb: &[usize], context: &mut Context) {
    let lines: Vec<Line<'_>> = mappings.iter().map(line).collect();
    context.learn(&lines);
    let hints = kind::line_hints(&lines, context);
    let heap = java_heap(&lines).unwrap_or(0..0);
    let kinds: Vec<(Kind, Option<Vec<u8>>)> = lines
        .iter()
        .zip(&hints)
        .map(|(line, hint)| {
            let (kind, name) = kind::classify(line, &hint.hint, context);
            // Nearly always the very same bytes: to compare them would be a sixth of what all this costs.
            (kind, (!std::ptr::eq(name, line.name)).then(|| name.to_vec()))
        })
        .collect();
    for (mapping, (kind, name)) in mappings.iter_mut().zip(kinds) {
        mapping.kind = kind;
        if let Some(name) = name {
            mapping.name = name;
        }
        mapping.allocator = allocator(kind, &mapping.name);
    }
    for mapping in mappings.get_mut(heap).unwrap_or_default().iter_mut().filter(|mapping| mapping.inode == 0) {
        // Its reserve is part of it, as it is of an arena.
        mapping.kind = Kind::Anon;
        mapping.allocator = Some(Allocator::JavaHeap);
    }
    for &index in hugetlb {
        if let Some(mapping) = mappings.get_mut(index).filter(|mapping| mapping.kind != Kind::Device) {
            mapping.kind = Kind::Hugetlb;
        }
    }
}

fn line(mapping: &Mapping) -> Line<'_> {
    let &Mapping { start, end, permissions, device, inode, ref name, .. } = mapping;
    Line { start, end, permissions, is_file: Line::is_file(inode, name), device, inode, name }
}

fn mapping(header: &MapsHeader<'_>) -> Mapping {
    let (offset, device, inode, name) = (header.offset, header.device, header.inode, header.name());
    let bare = Mapping::bare(header.start, header.end, header.permissions, Kind::Anon);
    Mapping { offset, device, inode, name, ..bare }
}

fn resident(smaps: &SmapsMapping) -> Resident {
    let huge = smaps.anon_huge.saturating_add(smaps.shmem_pmd).saturating_add(smaps.file_pmd);
    Resident { rss: smaps.rss, anonymous: smaps.anonymous, swap: Some(smaps.swap), huge }
}

fn detail(smaps: &SmapsMapping) -> Detail {
    Detail {
        pss: smaps.pss,
        private_clean: smaps.private_clean,
        private_dirty: smaps.private_dirty,
        shared_clean: smaps.shared_clean,
        shared_dirty: smaps.shared_dirty,
        swap_pss: smaps.swap_pss,
        locked: smaps.locked,
        hugetlb: smaps.hugetlb,
        ksm: smaps.ksm,
        lazy_free: smaps.lazy_free,
    }
}

/// `None` when there is no address space. What this kernel was built without (swap, hugetlbfs) is 0, not unknown.
pub(super) fn counters(status: &Status) -> Option<Counters> {
    Some(Counters {
        virt: status.vm_size?,
        anon: status.rss_anon?,
        file: status.rss_file?,
        shmem: status.rss_shmem?,
        swap: status.vm_swap.unwrap_or(0),
        hugetlb: status.hugetlb.unwrap_or(0),
        locked: status.vm_locked?,
        page_tables: status.vm_pte?,
    })
}

/// ns since 1970; 0 for a clock that is set before.
fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_may_not_be_looked_at_is_another_one_unless_the_process_ended() {
        assert!(is_another(b"a", b"", || true));
        assert!(!is_another(b"a", b"", || false));
        assert!(is_another(b"a", b"b", || false));
        assert!(!is_another(b"a", b"a", || true));
        assert!(!is_another(b"", b"b", || true), "what cannot be compared has not changed");
    }

    #[test]
    fn what_is_read_again_costs_both_times() {
        let options = ReadOptions { max_hold: Duration::from_secs(60), full: false, page_map: false, for_diff: true };
        let reading = |costs| Reading::begin(std::process::id(), &options, costs).unwrap().finish().process.sources;
        let calls = |sources: &[crate::snapshot::SourceCost]| {
            sources.iter().find(|cost| cost.source == Source::Status).map(|cost| cost.calls)
        };
        let once = reading(Costs::default());
        assert_eq!((calls(&once), calls(&reading(Costs::from(once.clone())))), (Some(2), Some(4)));
    }

    #[test]
    fn what_was_joined_while_it_was_read_is_not_added_twice() {
        let smaps = b"1000-2000 rw-p 00000000 00:00 0 \nRss:                   4 kB\n\
            1000-3000 rw-p 00000000 00:00 0 \nRss:                   8 kB\n\
            3000-4000 rw-p 00000000 00:00 0 \nRss:                   4 kB\n";
        let mut parsed = Parsed::new(0);
        visit_smaps(smaps, |header, mapping| parsed.add(header, mapping));
        assert_eq!((parsed.repeated, parsed.mappings.len(), parsed.rollup.rss), (1, 2, 8192));
        assert!(parsed.mappings.is_sorted_by_key(|mapping| mapping.start));
    }
}
