//! One address space as **lives** of mappings.
//!
//! A *segment* is a range of equal permissions, as in the kernel's VMA tree. A *life* is what a user calls one
//! mapping: one contiguous range with one backing, one name, one birth, made of one or more segments. The rules:
//!
//! - `mprotect` splits segments, never a life: a thread's stack keeps its guard, a malloc arena its reserve.
//! - Cutting a hole into a life makes two. The larger part keeps the number; the other becomes a life of its own
//!   with the same birth. Cutting at an edge makes the life smaller; taking everything ends it.
//! - `mremap` moves a life with its pages. `MREMAP_DONTUNMAP` leaves a new, empty life behind.
//! - An allocator's area is one life: a private anonymous `mmap` next to a private anonymous life of the same
//!   permissions (which the kernel makes one VMA) grows that life, whose birth stays the first one's. An `mmap` of
//!   more than [`OWN_LIFE_FACTOR`] times the life it touches (and of at least [`OWN_LIFE_BYTES`]) is not such growth:
//!   a hash table of 96 MiB that happens to land beside a buffer of 200 KiB is its own mapping, 3 ms old.
//! - The heap grows by `brk`, the main stack by what the kernel says about faults below it.
//!
//! So lives are disjoint and ordered, and each belongs to one VMA of the kernel or to several neighbours, while a VMA
//! may span several lives (those of different births that the kernel merged). All arithmetic survives any input.

use crate::event::MapsLine;
use crate::event::permission::{EXECUTE, READ, SHARED, WRITE};
use crate::kind::{self, Context, Hint, Line};
use crate::statement::{Birth, Kind, MappingRef, Stack};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A new anonymous mapping that is larger than its neighbour by more than this factor is not the neighbour's growth.
pub const OWN_LIFE_FACTOR: u64 = 4;
/// A new anonymous mapping smaller than this always grows its neighbour: the kernel shows one VMA.
pub const OWN_LIFE_BYTES: u64 = 1 << 20;

/// A range of equal permissions within one life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Address after the last.
    pub end: u64,
    /// Number of the life that it belongs to.
    pub life: u64,
    /// [`crate::event::permission`] bits.
    pub permissions: u8,
}

/// What fills a mapping's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backing {
    /// Private anonymous memory.
    Anon,
    /// A file (shared memory is one): inode and device, where they were read already.
    File(Option<(u64, u64)>),
}

impl Backing {
    /// What a line of `/proc/PID/maps` says.
    pub(super) fn of(line: &MapsLine) -> Self {
        if Line::is_file(line.inode, &line.name) { Self::File(Some((line.inode, line.device))) } else { Self::Anon }
    }

    /// Both may be the same mapping, as far as is known.
    pub(super) fn agrees(self, other: Self) -> bool {
        match (self, other) {
            (Self::Anon, Self::Anon) => true,
            (Self::File(Some(one)), Self::File(Some(two))) => one == two,
            (Self::File(_), Self::File(_)) => true,
            _ => false,
        }
    }
}

/// What a life is made of when it begins.
#[derive(Clone, Debug)]
pub(super) struct Seed {
    pub(super) backing: Backing,
    pub(super) offset: u64,
    pub(super) name: Arc<[u8]>,
    pub(super) hint: Hint,
    pub(super) birth: Option<Birth>,
}

#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) seed: Seed,
    pub(super) shared: bool,
    /// It was accessible once, so it may hold pages even when it is not now.
    pub(super) touchable: bool,
    pub(super) dont_fork: bool,
    /// Segments with READ, WRITE, EXECUTE.
    pub(super) counts: [u32; 3],
    pub(super) segments: u32,
    pub(super) cached: Option<Arc<MappingRef>>,
}

impl Life {
    pub(super) fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Union over the segments.
    pub(super) fn permissions(&self) -> u8 {
        let bit = |index: usize, bit| if self.counts[index] > 0 { bit } else { 0 };
        bit(0, READ) | bit(1, WRITE) | bit(2, EXECUTE) | if self.shared { SHARED } else { 0 }
    }

    /// Its kind, and its name as statements show it.
    pub(super) fn classify(&self, context: &Context) -> (Kind, &[u8]) {
        let (is_file, inode, device) = match self.seed.backing {
            Backing::Anon => (false, 0, 0),
            Backing::File(None) => (true, 0, 0),
            Backing::File(Some((inode, device))) => (true, inode, device),
        };
        let (start, end, permissions, name) = (self.start, self.end, self.permissions(), &*self.seed.name);
        kind::classify(&Line { start, end, permissions, is_file, device, inode, name }, &self.seed.hint, context)
    }

    pub(super) fn count(&mut self, permissions: u8, sign: i32) {
        for (count, bit) in self.counts.iter_mut().zip([READ, WRITE, EXECUTE]) {
            if permissions & bit != 0 {
                *count = count.saturating_add_signed(sign);
            }
        }
        self.segments = self.segments.saturating_add_signed(sign);
        self.touchable |= sign > 0 && permissions & (READ | WRITE | EXECUTE) != 0;
        self.cached = None;
    }
}

/// What became of lives since [`AddressSpace::take_changes`].
#[derive(Clone, Debug, PartialEq)]
pub enum LifeChange {
    /// A call made it.
    Born(Arc<MappingRef>),
    /// Its last page was unmapped; the mapping as it was before.
    Died(Arc<MappingRef>),
    /// A part became a life of its own.
    Split {
        /// The life that was cut.
        from: u64,
        /// The new one.
        to: u64,
    },
}

/// The mappings of one mm.
#[derive(Clone, Debug)]
pub struct AddressSpace {
    pub(super) page: u64,
    pub(super) segments: BTreeMap<u64, Segment>,
    pub(super) lives: HashMap<u64, Life>,
    by_inode: BTreeMap<(u64, u64), BTreeSet<u64>>,
    next_id: u64,
    /// Program break, page aligned.
    pub(super) brk: u64,
    pub(super) context: Context,
    pub(super) journal: super::journal::Journal,
    pub(super) changes: Vec<LifeChange>,
    /// Code that makes the call which is being applied.
    pub(super) caller: Option<Arc<Stack>>,
}

impl AddressSpace {
    /// An empty one; `page_size` in bytes.
    #[must_use]
    pub fn new(page_size: u64) -> Self {
        let page = if page_size.is_power_of_two() { page_size } else { 4096 };
        Self {
            page,
            segments: BTreeMap::new(),
            lives: HashMap::new(),
            by_inode: BTreeMap::new(),
            next_id: 0,
            brk: 0,
            context: Context::default(),
            journal: super::journal::Journal::default(),
            changes: Vec::new(),
            caller: None,
        }
    }

    /// Bytes in a page.
    #[must_use]
    pub const fn page_size(&self) -> u64 {
        self.page
    }

    /// Where the kernel put the heap and the stack, and which file is the program (empty: derived at the next reading).
    pub fn set_layout(&mut self, start_brk: u64, brk: u64, start_stack: u64, program: &[u8]) {
        self.brk = self.up(brk);
        self.context.start_brk = start_brk;
        self.context.start_stack = start_stack;
        self.context.program = program.into();
    }

    /// What fork gives to a child: the same mappings under new numbers, births unknown.
    #[must_use]
    pub fn forked(&self) -> Self {
        let mut child = Self::new(self.page);
        child.brk = self.brk;
        child.context = self.context.clone();
        let mut numbers = HashMap::new();
        for (&start, segment) in &self.segments {
            let Some(life) = self.lives.get(&segment.life) else {
                continue;
            };
            if life.dont_fork {
                continue;
            }
            match numbers.get(&segment.life) {
                Some(&number) => child.extend(number, start, segment.end, segment.permissions),
                None => {
                    let seed = Seed { birth: None, ..life.seed.clone() };
                    let number = child.insert(start, segment.end, segment.permissions, seed);
                    if let Some(twin) = child.lives.get_mut(&number) {
                        twin.touchable = life.touchable;
                    }
                    numbers.insert(segment.life, number);
                }
            }
        }
        child.changes.clear();
        child
    }

    /// Segments by address: start and segment.
    pub fn segments(&self) -> impl Iterator<Item = (u64, Segment)> + '_ {
        self.segments.iter().map(|(&start, &segment)| (start, segment))
    }

    /// Segments that begin at an address or above it.
    pub fn segments_from(&self, address: u64) -> impl Iterator<Item = (u64, Segment)> + '_ {
        self.segments.range(address..).map(|(&start, &segment)| (start, segment))
    }

    /// How many lives there are.
    #[must_use]
    pub fn life_count(&self) -> usize {
        self.lives.len()
    }

    /// Numbers of the lives, by address.
    #[must_use]
    pub fn lives(&self) -> Vec<u64> {
        let mut lives: Vec<u64> = self.segments.values().map(|segment| segment.life).collect();
        lives.dedup();
        lives
    }

    /// The life's range; `None` when it is over.
    #[must_use]
    pub fn range(&self, life: u64) -> Option<(u64, u64)> {
        self.lives.get(&life).map(|life| (life.start, life.end))
    }

    /// The life at an address.
    #[must_use]
    pub fn life_at(&self, address: u64) -> Option<u64> {
        self.segment_at(address).map(|(_, segment)| segment.life)
    }

    pub(super) fn segment_at(&self, address: u64) -> Option<(u64, Segment)> {
        self.segments
            .range(..=address)
            .next_back()
            .filter(|(_, segment)| address < segment.end)
            .map(|(&start, &segment)| (start, segment))
    }

    /// Where in its file an address is, bytes; `None` where no file is mapped.
    #[must_use]
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        let life = self.lives.get(&self.life_at(address)?)?;
        let of_file = matches!(life.seed.backing, Backing::File(_));
        of_file.then(|| life.seed.offset.saturating_add(address.saturating_sub(life.start)))
    }

    /// At most `limit` lives that overlap the range, by address.
    #[must_use]
    pub fn lives_in(&self, start: u64, end: u64, limit: usize) -> Vec<u64> {
        let mut found = Vec::new();
        let mut at = start;
        while at < end && found.len() < limit {
            let next = self
                .segment_at(at)
                .map(|(_, segment)| segment.life)
                .or_else(|| self.segments.range(at..end).next().map(|(_, segment)| segment.life));
            let Some((life, range)) = next.and_then(|life| Some((life, self.range(life)?))) else {
                break;
            };
            found.push(life);
            at = range.1;
        }
        found
    }

    /// Lives of a file.
    #[must_use]
    pub fn lives_of_inode(&self, inode: u64, device: u64) -> Vec<u64> {
        self.by_inode.get(&(inode, device)).map(|lives| lives.iter().copied().collect()).unwrap_or_default()
    }

    /// Whether a life may hold pages: it was accessible at some time.
    #[must_use]
    pub fn is_touchable(&self, life: u64) -> bool {
        self.lives.get(&life).is_some_and(|life| life.touchable)
    }

    /// smaps showed pages in it.
    pub fn set_touchable(&mut self, life: u64) {
        if let Some(life) = self.lives.get_mut(&life) {
            life.touchable = true;
        }
    }

    /// The life as statements show it; the same `Arc` until something about it changes. `None` when it is over.
    pub fn mapping(&mut self, life: u64) -> Option<Arc<MappingRef>> {
        let entry = self.lives.get_mut(&life)?;
        if entry.cached.is_none() {
            let (kind, name) = entry.classify(&self.context);
            let name = name.to_vec();
            entry.cached = Some(Arc::new(MappingRef {
                id: life,
                kind,
                name,
                start: entry.start,
                end: entry.end,
                permissions: entry.permissions(),
                birth: entry.seed.birth.clone(),
            }));
        }
        entry.cached.clone()
    }

    /// Births, deaths and splits since the last call, in order.
    pub fn take_changes(&mut self) -> Vec<LifeChange> {
        std::mem::take(&mut self.changes)
    }

    /// A number for a mapping that is no life (a range over several).
    pub fn take_number(&mut self) -> u64 {
        let number = self.next_id;
        self.next_id += 1;
        number
    }

    pub(super) fn up(&self, address: u64) -> u64 {
        address.checked_next_multiple_of(self.page).unwrap_or(!(self.page - 1))
    }

    pub(super) fn down(&self, address: u64) -> u64 {
        address & !(self.page - 1)
    }

    /// A reading told what backs a life.
    pub(super) fn set_backing(&mut self, number: u64, backing: Backing) {
        let Some(life) = self.lives.get_mut(&number).filter(|life| life.seed.backing != backing) else {
            return;
        };
        let old = std::mem::replace(&mut life.seed.backing, backing);
        life.cached = None;
        self.index(number, old, false);
        self.index(number, backing, true);
    }

    pub(super) fn index(&mut self, number: u64, backing: Backing, present: bool) {
        let Backing::File(Some(file)) = backing else {
            return;
        };
        if present {
            self.by_inode.entry(file).or_default().insert(number);
        } else if let Some(lives) = self.by_inode.get_mut(&file) {
            lives.remove(&number);
            if lives.is_empty() {
                self.by_inode.remove(&file);
            }
        }
    }
}
