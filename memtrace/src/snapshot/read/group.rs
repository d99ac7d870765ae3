//! Several processes together, by physical page; and the pictures, which the same walk gives.
//!
//! A group needs page-frame numbers, so `CAP_SYS_ADMIN`, and kpagecount, so root. Without, what remains is Σ PSS, and what
//! was not permitted is said.

use super::pages::{Found, Look, Painter, walk};
use super::process::{Member, counters, executed};
use super::twins::address_spaces;
use super::{Costs, frames_not_permitted, not_permitted};
use crate::cli::ReadOptions;
use crate::live::rights::bit;
use crate::procfs::{
    KernelPages, ProcessFiles, monotonic_ns, page_size, read_kernel_release, read_migrations, read_own_entry,
};
use crate::snapshot::sharing::{ObjectId, PAIRS_OF, Sharing};
use crate::snapshot::{GivenUp, Group, Mapping, PageMap, Physical, Process, Reason, Source};
use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

/// Memory that the table of shared pages may take, unless everything was asked for. Of twenty processes, 270 GiB of
/// shared pages fit.
const TABLE_BYTES: usize = 1536 << 20;
/// Processes that end or hide their pages while the group is read are left out, and the group is read again: so often.
const ATTEMPTS: usize = 4;
/// The group is also read again when the kernel moved pages meanwhile, unless reading it takes longer than this.
const AGAIN_NS: u64 = 500_000_000;

/// What the walks over all pages gave.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// For each process its pages, where a picture was asked for.
    pub(super) page_maps: Vec<Option<PageMap>>,
    /// Together, when there are several.
    pub(super) group: Option<Group>,
}

/// Looks at the pages of these processes, as far as that is asked for and permitted. What the picture of a single process
/// costs, or why there is none, is added to the process.
pub(super) fn read_pages(read: &mut [Member], options: &ReadOptions) -> Pages {
    let mut pages = Pages { page_maps: vec![None; read.len()], group: None };
    if read.len() > 1 {
        pages.group = Some(read_group(read, options, &mut pages.page_maps));
    }
    if options.page_map {
        for (member, page_map) in read.iter_mut().zip(&mut pages.page_maps) {
            if page_map.is_none() {
                let mut costs = Costs::from(std::mem::take(&mut member.process.sources));
                match read_page_map(member, options.hold_limit(), &mut costs) {
                    Ok(map) => *page_map = map,
                    Err(given_up) => member.process.given_up.push(given_up),
                }
                member.process.sources = costs.into_sources();
            }
        }
    }
    pages
}

fn looks(mappings: &[Mapping], picture: bool) -> Vec<Look> {
    mappings.iter().map(|mapping| Look::at(mapping, picture)).collect()
}

/// `None`: its mappings are unknown, and that was said.
fn read_page_map(member: &Member, max_hold: Option<Duration>, costs: &mut Costs) -> Result<Option<PageMap>, GivenUp> {
    let Some(mappings) = &member.process.mappings else { return Ok(None) };
    let looks = looks(mappings, true);
    let mut painter = Painter::new(mappings, &looks, page_size());
    walk(&member.files, mappings, &looks, max_hold, true, costs, |mapping, addresses, found| {
        painter.paint(mapping, addresses, found);
        ControlFlow::Continue(())
    })?;
    if member.has_executed() {
        return Err(GivenUp { source: Source::Pagemap, reason: executed(member.process.pid) });
    }
    Ok(Some(painter.finish()))
}

/// Why a group cannot be told by page.
struct Refused {
    /// The process because of which; `None` for all.
    process: Option<usize>,
    given_up: GivenUp,
}

impl From<GivenUp> for Refused {
    fn from(given_up: GivenUp) -> Self {
        Self { process: None, given_up }
    }
}

fn read_group(read: &[Member], options: &ReadOptions, page_maps: &mut [Option<PageMap>]) -> Group {
    let with_memory: Vec<usize> = (0..read.len()).filter(|&index| read[index].process.counters.is_some()).collect();
    let tids: Vec<u32> = with_memory.iter().map(|&index| read[index].files.tid()).collect();
    let mut members: Vec<usize> = address_spaces(&tids).into_iter().map(|place| with_memory[place]).collect();
    let twins = with_memory.iter().filter(|index| !members.contains(index)).map(|&index| &read[index].process);
    let mut group =
        Group { twins: twins.map(|process| (process.pid, process.start_time)).collect(), ..Group::default() };
    let mut costs = Costs::default();
    match read_readable(read, &members, options, page_maps, &mut costs) {
        Ok(Readable { members: readable, physical, left_out, moved }) => {
            members = readable;
            group.given_up.extend(left_out);
            group.given_up.extend((moved > 0).then(|| was_moved(moved)));
            if physical.pairs.is_none() {
                let what = format!("who shares how much with whom is told of {PAIRS_OF} processes at most");
                group.given_up.push(GivenUp { source: Source::Pagemap, reason: Reason::Failed { what } });
            }
            group.physical = Some(physical);
        }
        Err(given_up) => group.given_up.push(given_up),
    }
    if group.physical.is_some() && counts_are_averages() {
        let what =
            "large folios have one count for all their pages (CONFIG_NO_PAGE_MAPCOUNT): USS is an estimate".into();
        group.given_up.push(GivenUp { source: Source::Kpage, reason: Reason::Failed { what } });
    }
    let processes = || members.iter().filter_map(|&index| read.get(index)).map(|member| &member.process);
    group.pids = processes().map(|process| process.pid).collect();
    group.sum_res = processes().filter_map(|process| process.counters).map(|counters| counters.res()).sum();
    group.sum_pss = processes().map(|process| process.rollup.map(|rollup| rollup.pss)).sum();
    group.changed = changed(read, &members, &mut costs);
    group.sources = costs.into_sources();
    group
}

/// See [`Group::changed`]. Of one that has ended meanwhile, nothing.
fn changed(read: &[Member], members: &[usize], costs: &mut Costs) -> u64 {
    let members = members.iter().filter_map(|&index| read.get(index));
    let moved = members.filter_map(|Member { files, process, .. }| {
        let status = costs.time(Source::Status, || files.read_status()).ok()?;
        Some(process.counters?.moved(&counters(&status)?))
    });
    moved.fold(0, u64::saturating_add)
}

/// Who was read by page.
struct Readable {
    members: Vec<usize>,
    physical: Physical,
    /// Why others were not, unless they ended or hide their pages, which they say themselves.
    left_out: Vec<GivenUp>,
    /// Pages of the machine that the kernel moved to other frames meanwhile.
    moved: u64,
}

/// Those of `members` whose pages may be looked at, and what they have together. One that hides its pages, or ends
/// meanwhile, does not keep the others' from being told.
///
/// # Errors
/// Page frames are not told at all, or none of `members` may be looked at.
fn read_readable(
    read: &[Member],
    members: &[usize],
    options: &ReadOptions,
    page_maps: &mut [Option<PageMap>],
    costs: &mut Costs,
) -> Result<Readable, GivenUp> {
    let kernel = open_kernel_pages()?;
    let (mut readable, hidden): (Vec<usize>, Vec<usize>) =
        members.iter().partition(|&&index| read[index].process.mappings.is_some());
    let mut last = hidden.first().map(|&index| unknown_mappings(&read[index].process));
    let mut left_out = Vec::new();
    for attempt in 1.. {
        if readable.is_empty() {
            break;
        }
        let (begin, before) = (monotonic_ns(), read_migrations().unwrap_or(0));
        match read_physical(&kernel, read, &readable, options, page_maps, costs) {
            Ok(physical) => {
                let moved = read_migrations().unwrap_or(0).saturating_sub(before);
                if moved > 0 && attempt < ATTEMPTS && monotonic_ns() - begin < AGAIN_NS {
                    continue;
                }
                return Ok(Readable { members: readable, physical, left_out, moved });
            }
            Err(Refused { process: Some(process), given_up }) if attempt < ATTEMPTS => {
                // Whoever else has ended by now would cost another walk over all.
                readable.retain(|&index| index != process && has_memory(&read[index].files));
                if !matches!(given_up.reason, Reason::Gone | Reason::NotPermitted { .. }) {
                    left_out.push(given_up.clone());
                }
                last = Some(given_up);
            }
            Err(Refused { given_up, .. }) => return Err(given_up),
        }
    }
    Err(last.unwrap_or(GivenUp { source: Source::Pagemap, reason: Reason::Gone }))
}

fn read_physical(
    kernel: &KernelPages,
    read: &[Member],
    members: &[usize],
    options: &ReadOptions,
    page_maps: &mut [Option<PageMap>],
    costs: &mut Costs,
) -> Result<Physical, Refused> {
    let limit = if options.full { usize::MAX } else { TABLE_BYTES };
    let mut sharing = Sharing::new(page_size(), limit);
    for &index in members {
        let Member { files, process, .. } = &read[index];
        let refused = |given_up| Refused { process: Some(index), given_up };
        let mappings = process.mappings.as_ref().ok_or_else(|| refused(unknown_mappings(process)))?;
        let looks = looks(mappings, options.page_map);
        let mut painter = options.page_map.then(|| Painter::new(mappings, &looks, page_size()));
        let mut feeder = Feeder::new(&mut sharing, mappings);
        feeder.feed_known(&looks);
        let mut stopped = None;
        walk(files, mappings, &looks, options.hold_limit(), options.page_map, costs, |mapping, addresses, found| {
            if let Some(painter) = &mut painter {
                painter.paint(mapping, addresses.clone(), found);
            }
            match feeder.feed(mapping, addresses.end - addresses.start, found) {
                Ok(()) => ControlFlow::Continue(()),
                Err(reason) => {
                    stopped = Some(reason);
                    ControlFlow::Break(())
                }
            }
        })
        .map_err(refused)?;
        if let Some(reason) = stopped {
            return Err(GivenUp { source: Source::Pagemap, reason }.into());
        }
        // The address space of a process that ended is empty, and would be taken for one that holds nothing.
        if !files.exists() || !has_memory(files) {
            return Err(refused(GivenUp { source: Source::Pagemap, reason: Reason::Gone }));
        }
        if read[index].has_executed() {
            return Err(refused(GivenUp { source: Source::Pagemap, reason: executed(process.pid) }));
        }
        page_maps[index] = painter.map(Painter::finish);
    }
    sharing
        .count_outside(|first, counts| {
            kernel.read_counts(first, counts).map(|cost| costs.add_reading(Source::Kpage, cost))
        })
        .map_err(|error| GivenUp { source: Source::Kpage, reason: Reason::Failed { what: error.to_string() } })?;
    Ok(sharing.finish())
}

/// A page that was in one frame when the first process was looked at, and in another one at the second's, looks like two
/// that nobody shares. The count is the machine's, and so a bound.
fn was_moved(pages: u64) -> GivenUp {
    let what = format!(
        "the kernel moved {pages} pages of this machine to other frames meanwhile: what is shared may be more by as many"
    );
    GivenUp { source: Source::Pagemap, reason: Reason::Failed { what } }
}

fn has_memory(files: &ProcessFiles) -> bool {
    files.read_statm().is_ok_and(|statm| statm.virt > 0)
}

fn unknown_mappings(process: &Process) -> GivenUp {
    let maps = process.given_up.iter().find(|given_up| given_up.source == Source::Maps);
    maps.cloned().unwrap_or(GivenUp { source: Source::Maps, reason: Reason::Gone })
}

fn open_kernel_pages() -> Result<KernelPages, GivenUp> {
    let entry = read_own_entry().map_err(|error| GivenUp { source: Source::Pagemap, reason: reason(&error) })?;
    if entry.pfn().is_none() {
        return Err(GivenUp { source: Source::Pagemap, reason: frames_not_permitted() });
    }
    KernelPages::open().map_err(|error| GivenUp { source: Source::Kpage, reason: reason(&error) })
}

fn reason(error: &io::Error) -> Reason {
    match error.kind() {
        // kpagecount is a file of root's, and with CAP_SYS_ADMIN alone not to be opened.
        io::ErrorKind::PermissionDenied => not_permitted(bit::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
        io::ErrorKind::NotFound => Reason::NotOffered,
        _ => Reason::Failed { what: error.to_string() },
    }
}

/// Where the configuration of the running kernel lies open, what it says; nothing else tells it.
fn counts_are_averages() -> bool {
    let Ok(release) = read_kernel_release() else { return false };
    ["/boot/config-", "/lib/modules/"].iter().zip(["", "/config"]).any(|(folder, file)| {
        std::fs::read(format!("{folder}{release}{file}"))
            .is_ok_and(|text| text.split(|byte| *byte == b'\n').any(|line| line == b"CONFIG_NO_PAGE_MAPCOUNT=y"))
    })
}

/// Feeds the table with what a walk over one process finds.
struct Feeder<'a> {
    sharing: &'a mut Sharing,
    mappings: &'a [Mapping],
    /// Of each mapping, once seen: whose its file pages and its anonymous pages are.
    objects: Vec<[Option<ObjectId>; 2]>,
}

impl<'a> Feeder<'a> {
    fn new(sharing: &'a mut Sharing, mappings: &'a [Mapping]) -> Self {
        sharing.begin_process();
        Self { sharing, mappings, objects: vec![[None; 2]; mappings.len()] }
    }

    /// What is not walked because smaps has said it: pages that are all private.
    fn feed_known(&mut self, looks: &[Look]) {
        for (index, (mapping, look)) in self.mappings.iter().zip(looks).enumerate() {
            if let (Look::Nothing, Some(resident)) = (look, mapping.resident)
                && resident.rss > 0
            {
                let file = resident.rss.saturating_sub(resident.anonymous);
                self.sharing.add_exclusive(None, resident.rss.min(resident.anonymous) / page_size());
                let object = self.object(index, true);
                self.sharing.add_exclusive(Some(object), file / page_size());
            }
        }
    }

    fn feed(&mut self, mapping: usize, bytes: u64, found: Found) -> Result<(), Reason> {
        match found {
            Found::Private { file } => {
                let object = file.then(|| self.object(mapping, true));
                self.sharing.add_exclusive(object, bytes / page_size());
            }
            Found::Shared { file, pfn: Some(pfn) } => {
                let object = self.object(mapping, file);
                self.sharing.add_page(pfn, object, mapping).map_err(|_| Reason::Failed {
                    what: format!(
                        "the table of shared pages would need more than {TABLE_BYTES} bytes; --full allows it"
                    ),
                })?;
            }
            // The right was there a moment ago.
            Found::Shared { pfn: None, .. } => {
                return Err(frames_not_permitted());
            }
            Found::Swapped => {}
        }
        Ok(())
    }

    fn object(&mut self, index: usize, file: bool) -> ObjectId {
        let (mapping, known) = (&self.mappings[index], &mut self.objects[index][usize::from(file)]);
        *known.get_or_insert_with(|| {
            if file && mapping.inode != 0 {
                self.sharing.file(mapping.device, mapping.inode, mapping.kind, &mapping.name)
            } else {
                self.sharing.anonymous(mapping.kind, &mapping.name)
            }
        })
    }
}

#[cfg(test)]
mod tests;
