//! Several processes together, by physical page; and the pictures, which the same walk gives.
//!
//! A group needs page-frame numbers, so `CAP_SYS_ADMIN`, and kpagecount, so root. Without, what remains is Σ PSS, and what
//! was not permitted is said.

use super::pages::{Found, Look, Painter, walk};
use super::{Costs, frames_not_permitted};
use crate::cli::ReadOptions;
use crate::procfs::{KernelPages, ProcessFiles, page_size, read_kernel_release, read_own_entry};
use crate::snapshot::sharing::{ObjectId, Sharing};
use crate::snapshot::{GivenUp, Group, Mapping, PageMap, Physical, Process, Reason, Source};
use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

/// Memory that the table of shared pages may take, unless everything was asked for. Of twenty processes, 270 GiB of
/// shared pages fit.
const TABLE_BYTES: usize = 1536 << 20;
/// Processes that end or hide their pages while the group is read are left out, and the group is read again: so often.
const ATTEMPTS: usize = 4;

/// What the walks over all pages gave.
#[derive(Debug, Default)]
pub struct Pages {
    /// For each process its pages, where a picture was asked for.
    pub page_maps: Vec<Option<PageMap>>,
    /// Together, when there are several.
    pub group: Option<Group>,
}

/// Looks at the pages of these processes, as far as that is asked for and permitted. What the picture of a single process
/// costs, or why there is none, is added to the process.
pub fn read_pages(read: &mut [(ProcessFiles, Process)], options: &ReadOptions) -> Pages {
    let mut pages = Pages { page_maps: vec![None; read.len()], group: None };
    if read.len() > 1 {
        pages.group = Some(read_group(read, options, &mut pages.page_maps));
    }
    if options.page_map {
        for ((files, process), page_map) in read.iter_mut().zip(&mut pages.page_maps) {
            if page_map.is_none() {
                let mut costs = Costs::from(std::mem::take(&mut process.sources));
                match read_page_map(files, process, options.hold_limit(), &mut costs) {
                    Ok(map) => *page_map = map,
                    Err(given_up) => process.given_up.push(given_up),
                }
                process.sources = costs.into_sources();
            }
        }
    }
    pages
}

fn looks(mappings: &[Mapping], picture: bool) -> Vec<Look> {
    mappings.iter().map(|mapping| Look::at(mapping, picture)).collect()
}

/// `None`: its mappings are unknown, and that was said.
fn read_page_map(
    files: &ProcessFiles,
    process: &Process,
    max_hold: Option<Duration>,
    costs: &mut Costs,
) -> Result<Option<PageMap>, GivenUp> {
    let Some(mappings) = &process.mappings else { return Ok(None) };
    let looks = looks(mappings, true);
    let mut painter = Painter::new(mappings, &looks, page_size());
    walk(files, mappings, &looks, max_hold, true, costs, |mapping, addresses, found| {
        painter.paint(mapping, addresses, found);
        ControlFlow::Continue(())
    })?;
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

fn read_group(read: &[(ProcessFiles, Process)], options: &ReadOptions, page_maps: &mut [Option<PageMap>]) -> Group {
    let mut members = address_spaces(read);
    let mut group = Group::default();
    let mut costs = Costs::default();
    match read_readable(read, &members, options, page_maps, &mut costs) {
        Ok((readable, physical)) => {
            members = readable;
            group.physical = Some(physical);
        }
        Err(given_up) => group.given_up.push(given_up),
    }
    if group.physical.is_some() && counts_are_averages() {
        let what =
            "large folios have one count for all their pages (CONFIG_NO_PAGE_MAPCOUNT): USS is an estimate".into();
        group.given_up.push(GivenUp { source: Source::Kpage, reason: Reason::Failed { what } });
    }
    let processes = || members.iter().filter_map(|&index| read.get(index)).map(|(_, process)| process);
    group.pids = processes().map(|process| process.pid).collect();
    group.sum_res = processes().filter_map(|process| process.counters).map(|counters| counters.res()).sum();
    group.sum_pss = processes().map(|process| process.rollup.map(|rollup| rollup.pss)).sum();
    group.sources = costs.into_sources();
    group
}

/// Those of `members` whose pages may be looked at, and what they have together. One that hides its pages, or ends
/// meanwhile, does not keep the others' from being told.
///
/// # Errors
/// Page frames are not told at all, or none of `members` may be looked at.
fn read_readable(
    read: &[(ProcessFiles, Process)],
    members: &[usize],
    options: &ReadOptions,
    page_maps: &mut [Option<PageMap>],
    costs: &mut Costs,
) -> Result<(Vec<usize>, Physical), GivenUp> {
    let kernel = open_kernel_pages()?;
    let (mut readable, hidden): (Vec<usize>, Vec<usize>) =
        members.iter().partition(|&&index| read[index].1.mappings.is_some());
    let mut left_out = hidden.first().map(|&index| unknown_mappings(&read[index].1));
    for attempt in 1.. {
        if readable.is_empty() {
            break;
        }
        match read_physical(&kernel, read, &readable, options, page_maps, costs) {
            Ok(physical) => return Ok((readable, physical)),
            Err(Refused { process: Some(process), given_up })
                if matches!(given_up.reason, Reason::Gone | Reason::NotPermitted { .. }) && attempt < ATTEMPTS =>
            {
                // Whoever else has ended by now would cost another walk over all.
                readable.retain(|&index| index != process && has_memory(&read[index].0));
                left_out = Some(given_up);
            }
            Err(Refused { given_up, .. }) => return Err(given_up),
        }
    }
    Err(left_out.unwrap_or(GivenUp { source: Source::Pagemap, reason: Reason::Gone }))
}

/// The processes that have an address space of their own: not two that share one (`CLONE_VM`), whose pages are the same
/// page-table entries.
fn address_spaces(read: &[(ProcessFiles, Process)]) -> Vec<usize> {
    let mut members: Vec<usize> = Vec::with_capacity(read.len());
    for (index, (files, process)) in read.iter().enumerate() {
        let Some(counters) = process.counters else { continue };
        // Asked only of those that look alike: comparing all with all would be a call for each pair.
        let same = |&other: &usize| {
            let (others, other) = &read[other];
            other.counters.is_some_and(|other| other.virt == counters.virt)
                && one_address_space(files.tid(), others.tid())
        };
        if !members.iter().any(same) {
            members.push(index);
        }
    }
    members
}

/// By kcmp(2). A kernel without it, or one that does not let us, is taken to say no.
fn one_address_space(a: u32, b: u32) -> bool {
    const KCMP_VM: libc::c_long = 1;
    let unused: libc::c_ulong = 0;
    // SAFETY: no memory is involved.
    unsafe { libc::syscall(libc::SYS_kcmp, libc::c_long::from(a), libc::c_long::from(b), KCMP_VM, unused, unused) == 0 }
}

fn read_physical(
    kernel: &KernelPages,
    read: &[(ProcessFiles, Process)],
    members: &[usize],
    options: &ReadOptions,
    page_maps: &mut [Option<PageMap>],
    costs: &mut Costs,
) -> Result<Physical, Refused> {
    let limit = if options.full { usize::MAX } else { TABLE_BYTES / (20 + members.len() / 8) };
    let mut sharing = Sharing::new(page_size(), limit);
    for &index in members {
        let (files, process) = &read[index];
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
        page_maps[index] = painter.map(Painter::finish);
    }
    sharing
        .count_outside(|first, counts| {
            kernel.read_counts(first, counts).map(|cost| costs.add_reading(Source::Kpage, cost))
        })
        .map_err(|error| GivenUp { source: Source::Kpage, reason: Reason::Failed { what: error.to_string() } })?;
    Ok(sharing.finish())
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
        io::ErrorKind::PermissionDenied => frames_not_permitted(),
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
mod tests {
    use super::super::process::Reading;
    use super::*;
    use std::process::{Child, Command, Stdio};

    const OPTIONS: ReadOptions =
        ReadOptions { max_hold: std::time::Duration::from_secs(60), full: false, page_map: false, for_diff: false };

    /// A program that waits until it is dropped.
    struct Waits(Child);

    impl Waits {
        fn spawn() -> Self {
            Self(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
        }

        fn read(&self) -> (ProcessFiles, Process) {
            Reading::begin(self.0.id(), &OPTIONS).unwrap().finish()
        }
    }

    impl Drop for Waits {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn hide(process: &mut Process) -> GivenUp {
        let reason = Reason::NotPermitted { capability: String::new() };
        let given_up = GivenUp { source: Source::Maps, reason };
        (process.mappings, process.rollup) = (None, None);
        process.given_up = vec![given_up.clone()];
        given_up
    }

    #[test]
    fn one_that_hides_its_pages_is_left_out_and_the_others_are_told() {
        let processes = [Waits::spawn(), Waits::spawn(), Waits::spawn()];
        let mut read: Vec<_> = processes.iter().map(Waits::read).collect();
        hide(&mut read[1].1);
        let pid = |index: usize| processes[index].0.id();
        let group = read_pages(&mut read, &OPTIONS).group.unwrap();
        if open_kernel_pages().is_err() {
            // Nobody's page frames are told: nobody is left out.
            assert_eq!((group.physical, group.given_up.len()), (None, 1));
            assert_eq!(group.pids, [pid(0), pid(1), pid(2)]);
            return;
        }
        assert_eq!(group.pids, [pid(0), pid(2)]);
        let res = |index: usize| read[index].1.counters.unwrap().res();
        assert_eq!(group.sum_res, res(0) + res(2));
        let physical = group.physical.unwrap();
        assert_eq!(physical.shared_with_group.len(), 2);
        assert!(physical.res > 0 && physical.res < group.sum_res, "{physical:?}");
    }

    #[test]
    fn where_all_hide_their_pages_it_is_said_why() {
        let processes = [Waits::spawn(), Waits::spawn()];
        let mut read: Vec<_> = processes.iter().map(Waits::read).collect();
        let given_up: Vec<GivenUp> = read.iter_mut().map(|(_, process)| hide(process)).collect();
        let group = read_pages(&mut read, &OPTIONS).group.unwrap();
        assert_eq!((group.physical, group.pids.len()), (None, 2));
        assert_eq!(group.given_up, [open_kernel_pages().err().unwrap_or_else(|| given_up[0].clone())]);
    }
}
