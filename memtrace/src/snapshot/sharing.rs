//! Which physical pages several processes really share. Fed with page-frame numbers, it knows no file and no process.
//!
//! Pages that are mapped once never enter the table: they are added up. Each other page costs 20 bytes and one bit a
//! process: 4 in the index of page frames (at most 4 bytes for each page of the machine), 8 for what it is, 8 for the
//! mappings of the first two processes. A page is counted once however often and by whomever it is mapped: through a
//! fork, a file, a segment, or because KSM found it equal to others.
//!
//! Mapped once is what pagemap calls exclusive, and what nobody outside maps is told by kpagecount. On a kernel with
//! `CONFIG_NO_PAGE_MAPCOUNT` both are estimates for pages of large folios: exclusive is a folio of which no other address
//! space maps any page, and each page of a folio counts its folio's average. There, USS is an estimate; RES and the
//! pairs are not, but for a large folio that one process maps twice.

use super::{Link, Pair, Physical, SharedObject};
use crate::statement::Kind;
use std::collections::HashMap;

/// The largest group of which pairs are told. Their number grows with the square: these have up to 32,640, which are
/// 1.5 MB of JSON; twice as many processes would have four times as much, and take four times as long to compare.
pub const PAIRS_OF: usize = 256;
/// Mappings of one process in which the same page is looked for; KSM can put one page into all of them.
const LINKS_OF_A_PAGE: usize = 16;

/// What pages belong to: a file, a segment, or the kind and name of anonymous memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectId(u32);

/// There are more shared pages than the table may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The pages of several processes, one process after the other.
#[derive(Debug)]
pub struct Sharing {
    page_size: u64,
    /// Bytes that all of it may take.
    limit: usize,
    /// Bytes of what belongs to the processes before this one.
    settled: usize,
    frames: Frames,
    pages: Vec<Page>,
    /// Pages that are mapped once.
    exclusive: u64,
    /// Pages of the table that nobody outside maps.
    inside: u64,
    processes: Vec<Bitmap>,
    objects: Vec<Object>,
    /// By kind and name, for anonymous memory; by device and inode, for everything else.
    anonymous: HashMap<(Kind, Vec<u8>), u32>,
    files: HashMap<(u64, u64), u32>,
    /// In which mappings the first two processes show a page.
    places: [Places; 2],
}

/// A page that is mapped more than once.
#[derive(Clone, Copy, Debug)]
struct Page {
    object: u32,
    /// How often the group maps it.
    mappings: u32,
}

#[derive(Debug)]
struct Object {
    kind: Kind,
    name: Vec<u8>,
    device: u64,
    inode: u64,
    processes: usize,
    /// The last process that was seen to map it, from 1.
    last: usize,
    res: u64,
    sum_res: u64,
}

impl Object {
    fn seen_by(&mut self, process: usize) {
        if self.last != process {
            self.last = process;
            self.processes += 1;
        }
    }
}

impl Sharing {
    /// A table of at most about `limit` bytes.
    #[must_use]
    pub fn new(page_size: u64, limit: usize) -> Self {
        Self {
            page_size,
            limit,
            settled: 0,
            frames: Frames::default(),
            pages: Vec::new(),
            exclusive: 0,
            inside: 0,
            processes: Vec::new(),
            objects: Vec::new(),
            anonymous: HashMap::new(),
            files: HashMap::new(),
            places: Default::default(),
        }
    }

    /// What follows is the next process's.
    pub fn begin_process(&mut self) {
        self.settled += self.processes.last().map_or(0, Bitmap::bytes);
        self.processes.push(Bitmap::default());
    }

    /// A file or a segment, by device and inode.
    pub fn file(&mut self, device: u64, inode: u64, kind: Kind, name: &[u8]) -> ObjectId {
        let objects = &mut self.objects;
        let id = self.files.entry((device, inode)).or_insert_with(|| add_object(objects, kind, name, device, inode));
        ObjectId(*id)
    }

    /// Anonymous memory, by what it was where it is seen.
    pub fn anonymous(&mut self, kind: Kind, name: &[u8]) -> ObjectId {
        let objects = &mut self.objects;
        let id = self.anonymous.entry((kind, name.to_vec())).or_insert_with(|| add_object(objects, kind, name, 0, 0));
        ObjectId(*id)
    }

    /// So many pages are mapped once, by this process. Of an anonymous page nothing else is to be told; a file's belong
    /// to what the file has in memory.
    pub fn add_exclusive(&mut self, file: Option<ObjectId>, pages: u64) {
        self.exclusive += pages;
        if let Some(object) = file.and_then(|file| self.objects.get_mut(file.0 as usize))
            && pages > 0
        {
            object.seen_by(self.processes.len());
            object.res += pages;
            object.sum_res += pages;
        }
    }

    /// This process maps this page frame, which is mapped elsewhere too, in its mapping of this index.
    ///
    /// # Errors
    /// The table is full.
    pub fn add_page(&mut self, pfn: u64, object: ObjectId, mapping: usize) -> Result<(), Full> {
        if self.held() > self.limit {
            return Err(Full);
        }
        let slot = self.frames.slot(pfn).ok_or(Full)?;
        if *slot == 0 {
            // Indexes are 32 bits wide, and 0 is none.
            if self.pages.len() >= u32::MAX as usize - 1 {
                return Err(Full);
            }
            self.pages.push(Page { object: object.0, mappings: 0 });
            *slot = self.pages.len() as u32;
            if let Some(object) = self.objects.get_mut(object.0 as usize) {
                object.res += 1;
            }
        }
        let index = *slot as usize - 1;
        let page = &mut self.pages[index];
        page.mappings = page.mappings.saturating_add(1);
        let process = self.processes.len();
        if let Some(object) = self.objects.get_mut(page.object as usize) {
            object.seen_by(process);
            object.sum_res += 1;
        }
        if let Some(bitmap) = self.processes.last_mut() {
            bitmap.set(index);
        }
        if let Some(places) = self.places.get_mut(process.wrapping_sub(1)) {
            places.add(index, mapping);
        }
        Ok(())
    }

    /// Bytes that are in use for it now.
    fn held(&self) -> usize {
        let places = self.places.iter().map(Places::bytes).sum::<usize>();
        let bitmap = self.processes.last().map_or(0, Bitmap::bytes);
        self.settled + self.frames.bytes() + size_of_val(self.pages.as_slice()) + bitmap + places
    }

    /// Asks how often the pages of the table are mapped by anyone: `read(first frame, counts)` is called for pieces of
    /// at most 512 frames, by frame. What lies between pages of the table is asked along where that costs less than
    /// another call.
    ///
    /// # Errors
    /// What `read` says.
    pub fn count_outside<E>(&mut self, mut read: impl FnMut(u64, &mut [u64]) -> Result<(), E>) -> Result<(), E> {
        let mut counts = [0; LEAF];
        for (first, leaf) in self.frames.leaves() {
            let mut begin = 0;
            while let Some(skipped) = leaf[begin..].iter().position(|slot| *slot != 0) {
                begin += skipped;
                let gap = |piece: &[u32]| piece.iter().all(|slot| *slot == 0);
                let length = leaf[begin..].windows(COUNT_GAP).position(gap).unwrap_or(LEAF - begin);
                let (slots, counts) = (&leaf[begin..begin + length], &mut counts[..length]);
                read(first + begin as u64, counts)?;
                for (slot, count) in slots.iter().zip(counts.iter()).filter(|(slot, _)| **slot != 0) {
                    let mappings = self.pages[*slot as usize - 1].mappings;
                    self.inside += u64::from(*count <= u64::from(mappings));
                }
                begin += length;
            }
        }
        Ok(())
    }

    /// The answer. Its USS is right after [`Self::count_outside`].
    #[must_use]
    pub fn finish(self) -> Physical {
        let bytes = |pages: u64| pages * self.page_size;
        let (mut seen, mut shared) = (Bitmap::default(), Bitmap::default());
        for process in &self.processes {
            shared.add_both(&seen, process);
            seen.add(process);
        }
        let pairs = (self.processes.len() <= PAIRS_OF).then(|| {
            let mut pairs = Vec::new();
            for (a, of_a) in self.processes.iter().enumerate() {
                for (b, of_b) in self.processes.iter().enumerate().skip(a + 1) {
                    let both = of_a.count_both(of_b);
                    if both > 0 {
                        pairs.push(Pair { a, b, shared: bytes(both) });
                    }
                }
            }
            pairs
        });
        let mut shared_of_object = vec![0; self.objects.len()];
        for index in shared.ones() {
            shared_of_object[self.pages[index].object as usize] += 1;
        }
        let mut objects: Vec<SharedObject> = self
            .objects
            .into_iter()
            .zip(shared_of_object)
            .filter(|(_, shared)| *shared > 0)
            .map(|(object, shared)| SharedObject {
                kind: object.kind,
                name: object.name,
                device: object.device,
                inode: object.inode,
                processes: object.processes,
                res: bytes(object.res),
                shared: bytes(shared),
                sum_res: bytes(object.sum_res),
            })
            .collect();
        objects.sort_by(|a, b| (b.shared, b.res).cmp(&(a.shared, a.res)).then_with(|| a.name.cmp(&b.name)));
        let [first, second] = &self.places;
        Physical {
            res: bytes(self.exclusive + self.pages.len() as u64),
            uss: bytes(self.exclusive + self.inside),
            shared_with_group: self.processes.iter().map(|process| bytes(process.count_both(&shared))).collect(),
            pairs,
            objects,
            links: first.links(second, self.page_size),
        }
    }
}

fn add_object(objects: &mut Vec<Object>, kind: Kind, name: &[u8], device: u64, inode: u64) -> u32 {
    let id = objects.len() as u32;
    objects.push(Object { kind, name: name.to_vec(), device, inode, processes: 0, last: 0, res: 0, sum_res: 0 });
    id
}

const LEAF: usize = 512;
/// So many frames that nobody asks for end a piece of kpagecount: a frame costs some 50 ns there, a call 400.
const COUNT_GAP: usize = 8;

/// Page frame → index of a page + 1. Like page tables, because page frames that are used together lie together: a hash
/// table would miss the cache at every page.
#[derive(Debug, Default)]
struct Frames {
    /// Of each 1 GiB (of 4 KiB pages): index in `middle` + 1.
    top: Vec<u32>,
    /// Of each 2 MiB: index in `leaves` + 1.
    middle: Vec<[u32; LEAF]>,
    leaves: Vec<[u32; LEAF]>,
}

impl Frames {
    /// No machine has more: 52 bits of physical address. Keeps the top table below 16 MiB.
    const FRAMES: u64 = 1 << 40;

    fn slot(&mut self, pfn: u64) -> Option<&mut u32> {
        if pfn >= Self::FRAMES {
            return None;
        }
        let (top, middle, leaf) = ((pfn >> 18) as usize, (pfn >> 9) as usize % LEAF, pfn as usize % LEAF);
        if top >= self.top.len() {
            self.top.resize(top + 1, 0);
        }
        let node = child(&mut self.top[top], &mut self.middle);
        let node = child(&mut self.middle[node][middle], &mut self.leaves);
        Some(&mut self.leaves[node][leaf])
    }

    fn bytes(&self) -> usize {
        let (top, middle) = (size_of_val(self.top.as_slice()), size_of_val(self.middle.as_slice()));
        top + middle + size_of_val(self.leaves.as_slice())
    }

    /// The leaves by frame, each with its first frame.
    fn leaves(&self) -> impl Iterator<Item = (u64, &[u32; LEAF])> {
        let tops = self.top.iter().enumerate().filter(|(_, node)| **node != 0);
        tops.flat_map(move |(top, node)| {
            let nodes = self.middle[*node as usize - 1].iter().enumerate().filter(|(_, node)| **node != 0);
            nodes.map(move |(middle, node)| {
                (((top as u64) << 18) + ((middle as u64) << 9), &self.leaves[*node as usize - 1])
            })
        })
    }
}

/// The table that a slot stands for, made if there is none.
fn child(slot: &mut u32, tables: &mut Vec<[u32; LEAF]>) -> usize {
    if *slot == 0 {
        tables.push([0; LEAF]);
        *slot = tables.len() as u32;
    }
    *slot as usize - 1
}

/// A set of pages by their index.
#[derive(Debug, Default)]
struct Bitmap(Vec<u64>);

impl Bitmap {
    fn bytes(&self) -> usize {
        size_of_val(self.0.as_slice())
    }

    fn set(&mut self, index: usize) {
        if index / 64 >= self.0.len() {
            self.0.resize(index / 64 + 1, 0);
        }
        self.0[index / 64] |= 1 << (index % 64);
    }

    fn count_both(&self, other: &Self) -> u64 {
        self.0.iter().zip(&other.0).map(|(a, b)| u64::from((a & b).count_ones())).sum()
    }

    fn add(&mut self, other: &Self) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word |= other;
        }
    }

    /// Adds what is in both.
    fn add_both(&mut self, a: &Self, b: &Self) {
        self.0.resize(self.0.len().max(a.0.len().min(b.0.len())), 0);
        for (word, (a, b)) in self.0.iter_mut().zip(a.0.iter().zip(&b.0)) {
            *word |= a & b;
        }
    }

    fn ones(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(index, word)| {
            std::iter::successors(Some(*word), |word| Some(word & word.wrapping_sub(1)))
                .take_while(|word| *word != 0)
                .map(move |word| index * 64 + word.trailing_zeros() as usize)
        })
    }
}

/// Which mappings of one process show a page.
#[derive(Debug, Default)]
struct Places {
    /// Of each page: the first mapping + 1.
    first: Vec<u32>,
    /// Further ones, of the few pages that have any.
    more: HashMap<usize, Vec<u32>>,
    /// How many these are.
    others: usize,
}

impl Places {
    /// Of a page that has further mappings: its entry, of which a table holds up to twice as many, and its allocation.
    const MORE_BYTES: usize = 2 * size_of::<(usize, Vec<u32>)>() + 32;

    fn bytes(&self) -> usize {
        size_of_val(self.first.as_slice()) + self.more.len() * Self::MORE_BYTES + self.others * size_of::<u32>()
    }

    fn add(&mut self, index: usize, mapping: usize) {
        let Some(mapping) = u32::try_from(mapping).ok().and_then(|mapping| mapping.checked_add(1)) else { return };
        if index >= self.first.len() {
            self.first.resize(index + 1, 0);
        }
        match &mut self.first[index] {
            first @ 0 => *first = mapping,
            first if *first == mapping => {}
            _ => {
                let more = self.more.entry(index).or_default();
                if more.len() + 1 < LINKS_OF_A_PAGE && !more.contains(&mapping) {
                    more.push(mapping);
                    self.others += 1;
                }
            }
        }
    }

    fn of(&self, index: usize) -> impl Iterator<Item = usize> {
        let first = self.first.get(index).filter(|first| **first != 0);
        first.into_iter().chain(self.more.get(&index).into_iter().flatten()).map(|mapping| *mapping as usize - 1)
    }

    /// The largest first.
    fn links(&self, second: &Self, page_size: u64) -> Vec<Link> {
        let mut shared: HashMap<(usize, usize), u64> = HashMap::new();
        for index in 0..self.first.len().min(second.first.len()) {
            for a in self.of(index) {
                for b in second.of(index) {
                    *shared.entry((a, b)).or_default() += page_size;
                }
            }
        }
        let mut links: Vec<Link> = shared.into_iter().map(|((a, b), shared)| Link { a, b, shared }).collect();
        links.sort_unstable_by_key(|link| (std::cmp::Reverse(link.shared), link.a, link.b));
        links
    }
}

#[cfg(test)]
mod tests;
