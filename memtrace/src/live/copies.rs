//! Copies of stacks on their way from the probes to who unwinds them. A copy is unwound when it comes, so that the probes
//! soon know how to tell its path from others. One whose mm is not known yet, or that leads through code that is not,
//! waits until the interval ends: by then mms that were opened in it are known, and maps has been read again.

use crate::decode::Decoder;
use crate::procfs::monotonic_ns;
use crate::stacks::Stacks;
use aya::maps::{MapData, RingBuf};
use memtrace_common::StackRecord;

/// Copies are unwound for so long at a time. What is still in the ring then comes with the next turn, or has no room.
const TURN_NS: u64 = 200_000_000;
/// What waits is tried again when something comes, but not before this time.
const TRY_AGAIN_NS: u64 = 5_000_000;
/// If no more than this waits.
const TRIED_BYTES: usize = 1 << 20;
/// As much may wait. What comes beyond is unwound with the mappings that are known then.
const WAITING_BYTES: usize = 32 << 20;

/// Copies that wait.
#[derive(Default)]
pub struct Copies {
    waiting: Vec<(StackRecord, Box<[u8]>)>,
    bytes: usize,
    /// When what waits was tried last.
    tried_ns: u64,
    /// End of the last interval.
    last_ns: u64,
    /// The last turn was over before the ring was empty. The kernel wakes nobody for what is in it already.
    more: bool,
    /// Copies whose mm nobody knew when there was no room for more.
    lost: u64,
    cost: Cost,
}

/// What copies cost on this side.
#[derive(Clone, Copy, Default)]
pub struct Cost {
    /// How many came.
    pub copies: u64,
    /// Bytes of stack in them.
    pub bytes: u64,
    /// Time to read and unwind them.
    pub ns: u64,
}

impl Copies {
    /// Takes what the ring holds.
    pub fn read(&mut self, ring: &mut RingBuf<MapData>, decoder: &mut Decoder, stacks: &mut Stacks) {
        let began_ns = monotonic_ns();
        let mut came = false;
        self.more = false;
        while let Some(item) = ring.next() {
            came = true;
            let Some((record, bytes)) = decoder.parse_stack(&item) else { continue };
            self.cost.copies += 1;
            self.cost.bytes += bytes.len() as u64;
            if decoder.mm(&record.head).is_some_and(|mm| stacks.copied_just_now(mm, &record, bytes)) {
                continue;
            }
            self.bytes += bytes.len();
            self.waiting.push((record, bytes.into()));
            if self.bytes > WAITING_BYTES {
                let unknown = self.deliver(decoder, stacks);
                self.lost += unknown.len() as u64;
                self.bytes = 0;
            }
            if monotonic_ns().saturating_sub(began_ns) > TURN_NS {
                self.more = true;
                break;
            }
        }
        let now = monotonic_ns();
        if came && self.bytes <= TRIED_BYTES && now.saturating_sub(self.tried_ns) > TRY_AGAIN_NS {
            self.tried_ns = now;
            self.waiting.retain(|(record, bytes)| {
                !decoder.mm(&record.head).is_some_and(|mm| stacks.copied_just_now(mm, record, bytes))
            });
            self.bytes = self.waiting.iter().map(|(_, bytes)| bytes.len()).sum();
        }
        if came {
            self.cost.ns += monotonic_ns().saturating_sub(began_ns);
        }
    }

    /// Hands over every copy whose mm is known, at the end of an interval. A copy may come before its mm, but by no more
    /// than an interval.
    pub fn hand_over(&mut self, now_ns: u64, decoder: &Decoder, stacks: &mut Stacks) {
        let began_ns = monotonic_ns();
        let last_ns = std::mem::replace(&mut self.last_ns, now_ns);
        let mut unknown = self.deliver(decoder, stacks);
        // Their mms are gone, and nothing was booked on them since: an entry that had wanted one says so by its stack's end.
        unknown.retain(|(record, _)| record.head.ts_ns > last_ns);
        self.bytes = unknown.iter().map(|(_, bytes)| bytes.len()).sum();
        self.waiting = unknown;
        self.cost.ns += monotonic_ns().saturating_sub(began_ns);
    }

    /// Something is left that nobody will be woken for.
    pub const fn has_more(&self) -> bool {
        self.more
    }

    /// What they cost since the session began.
    pub const fn cost(&self) -> Cost {
        self.cost
    }

    /// Copies that had no room here.
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// Returns what nobody knows the mm of.
    fn deliver(&mut self, decoder: &Decoder, stacks: &mut Stacks) -> Vec<(StackRecord, Box<[u8]>)> {
        let mut unknown = std::mem::take(&mut self.waiting);
        unknown.retain(|(record, bytes)| match decoder.mm(&record.head) {
            Some(mm) => {
                stacks.copied(mm, record, bytes);
                false
            }
            None => true,
        });
        unknown
    }
}
