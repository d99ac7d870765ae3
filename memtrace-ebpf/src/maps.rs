//! All maps. Sizes here are defaults; the program sets them at load.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_RB_RING_SIZE},
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, Queue, RingBuf},
};
use memtrace_common::{
    Cause, Clock, Control, Cpu, HoldKey, HoldValue, Holder, HolderKey, Losses, MomentKey, Overflow, PlaceKey,
    Reclaimer, RecordKey, RecordValue, SPAN_POINTS, Slot, SpanPoint, SpanState, StackKey, StackPath, Thread, TimeKey,
    TimeValue,
};

/// Interval number and whom to attach to.
#[map]
pub static CONTROL: Array<Control> = Array::with_max_entries(1, 0);
/// Slot of each traced mm, by the kernel's pointer.
#[map]
pub static MMS: HashMap<u64, u32> = HashMap::with_max_entries(1024, 0);
/// The traced mms.
#[map]
pub static SLOTS: Array<Slot> = Array::with_max_entries(1024, 0);
/// Slots that nobody uses; filled by the program.
#[map]
pub static FREE_SLOTS: Queue<u32> = Queue::with_max_entries(1024, 0);
/// Each CPU's view of each slot.
#[map]
pub static CPUS: PerCpuArray<Cpu> = PerCpuArray::with_max_entries(1024, 0);
/// What to add to a per-CPU address, by CPU. Per-CPU memory is not one of BPF's types: see [`crate::slot`].
#[map]
pub static CPU_OFFSETS: Array<u64> = Array::with_max_entries(1024, 0);
/// A per-CPU variable of our own, from which the offsets are learned.
#[map]
pub static CPU_PROBE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// Traced processes.
#[map]
pub static PROCESSES: HashMap<u32, u32> = HashMap::with_max_entries(16384, 0);
/// Threads of traced mms.
#[map]
pub static THREADS: HashMap<u32, Thread> = HashMap::with_max_entries(16384, 0);
/// Tasks that reclaim memory now.
#[map]
pub static RECLAIMERS: HashMap<u32, Reclaimer> = HashMap::with_max_entries(4096, 0);
/// Sampled faults by moment, of even intervals: apart from the records, whose room they must not take.
#[map]
pub static MOMENTS_0: LruHashMap<MomentKey, u64> = LruHashMap::with_max_entries(8192, 0);
/// The same of odd intervals.
#[map]
pub static MOMENTS_1: LruHashMap<MomentKey, u64> = LruHashMap::with_max_entries(8192, 0);
/// Records of even intervals.
#[map]
pub static RECORDS_0: HashMap<RecordKey, RecordValue> = HashMap::with_max_entries(32768, 0);
/// Records of odd intervals.
#[map]
pub static RECORDS_1: HashMap<RecordKey, RecordValue> = HashMap::with_max_entries(32768, 0);
/// Amounts whose record had no room: `(slot × causes + cause) × 2 + parity`.
#[map]
pub static OVERFLOW: Array<Overflow> = Array::with_max_entries(1024 * Cause::COUNT as u32 * 2, 0);
/// Clocks of the threads of traced mms.
#[map]
pub static CLOCKS: HashMap<u32, Clock> = HashMap::with_max_entries(16384, 0);
/// Threads' time in even intervals.
#[map]
pub static TIMES_0: HashMap<TimeKey, TimeValue> = HashMap::with_max_entries(32768, 0);
/// Threads' time in odd intervals.
#[map]
pub static TIMES_1: HashMap<TimeKey, TimeValue> = HashMap::with_max_entries(32768, 0);
/// Where samples found threads' own code, in even intervals: apart from their time, whose room they must not take.
#[map]
pub static PLACES_0: HashMap<PlaceKey, u64> = HashMap::with_max_entries(16384, 0);
/// The same of odd intervals.
#[map]
pub static PLACES_1: HashMap<PlaceKey, u64> = HashMap::with_max_entries(16384, 0);
/// Who holds mmap_lock of a traced mm, or held it last. Nobody is taken out: those not met for long make room.
#[map]
pub static HOLDERS: LruHashMap<HolderKey, Holder> = LruHashMap::with_max_entries(1024, 0);
/// Who held it, in even intervals.
#[map]
pub static HOLDS_0: HashMap<HoldKey, HoldValue> = HashMap::with_max_entries(4096, 0);
/// Who held it, in odd intervals.
#[map]
pub static HOLDS_1: HashMap<HoldKey, HoldValue> = HashMap::with_max_entries(4096, 0);
/// What threads did since their last edge.
#[map]
pub static SPANS: HashMap<u32, SpanState> = HashMap::with_max_entries(16384, 0);
/// The edges, by the attach cookie of their probes.
#[map]
pub static POINTS: Array<SpanPoint> = Array::with_max_entries(SPAN_POINTS as u32, 0);
/// Mapping calls, lives of tasks, and edges.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);
/// Code paths whose stack has been copied; those not met for long make room.
#[map]
pub static STACKS: LruHashMap<StackKey, StackPath> = LruHashMap::with_max_entries(65536, 0);
/// Copies of stacks. However many there are, the lives of mms have their own room.
#[map]
pub static STACK_COPIES: RingBuf = RingBuf::with_byte_size(16 << 20, 0);
/// Bytes of a stack in which return addresses are compared.
pub const STACK_WINDOW: usize = 2048;
/// Those bytes.
#[map]
pub static STACK_WORDS: PerCpuArray<[u8; STACK_WINDOW]> = PerCpuArray::with_max_entries(1, 0);
/// What was lost.
#[map]
pub static LOSSES: PerCpuArray<Losses> = PerCpuArray::with_max_entries(1, 0);

/// One byte per hash of an mm pointer: 0 says for sure that no such mm is traced. What everybody else on the
/// machine pays for our probes is one look here.
static mut FILTER: [u8; FILTER_SIZE] = [0; FILTER_SIZE];
const FILTER_SIZE: usize = 4096;

#[inline(always)]
fn filter_cell(mm: u64) -> *mut u8 {
    // Slabs place mm_structs at multiples of 64 at least; the upper bits spread what the lower ones repeat.
    // The verifier knows this for a pointer, with which it lets nobody calculate; a 32-bit move makes a number of it.
    let bits: u32;
    unsafe { core::arch::asm!("{o} = {i}", o = lateout(wreg) bits, i = in(wreg) mm as u32) };
    let hash = ((bits >> 6) ^ (bits >> 18)) as usize & (FILTER_SIZE - 1);
    (&raw mut FILTER).cast::<u8>().wrapping_add(hash)
}

/// False: certainly not traced.
#[inline(always)]
pub fn maybe_traced(mm: u64) -> bool {
    unsafe { core::ptr::read_volatile(filter_cell(mm)) != 0 }
}

/// From now on [`maybe_traced`] says true. Never undone: a stale cell costs a lookup, nothing more.
#[inline(always)]
pub fn mark_traced(mm: u64) {
    unsafe { core::ptr::write_volatile(filter_cell(mm), 1) }
}

/// Number of the current interval.
#[inline(always)]
pub fn epoch() -> u32 {
    match CONTROL.get_ptr(0) {
        Some(control) => unsafe { core::ptr::read_volatile(&raw const (*control).epoch) },
        None => 0,
    }
}

/// Counts a loss.
macro_rules! lose {
    ($what:ident) => {
        if let Some(losses) = $crate::maps::LOSSES.get_ptr_mut(0) {
            unsafe { (*losses).$what += 1 }
        }
    };
}
pub(crate) use lose;

/// The program looks into the rings at each interval; only when this much waits is it worth waking it earlier.
const WAKE_BYTES: u64 = 1 << 20;

/// Mapping calls and edges leave this much of the ring to the lives of mms and tasks: without one of those an mm would stay open
/// for ever, without a call the address space is read again.
const LIVES_BYTES: u64 = 64 << 10;

/// Puts a mapping call into the ring, or counts its loss.
#[inline(always)]
pub fn emit_call<T: 'static>(record: T) {
    if is_for_lives_only() {
        lose!(ring);
        return;
    }
    emit(record);
}

/// What is left of the ring is for the lives of mms and tasks.
#[inline(always)]
pub fn is_for_lives_only() -> bool {
    let waiting = EVENTS.query(u64::from(BPF_RB_AVAIL_DATA));
    waiting > WAKE_BYTES && waiting + LIVES_BYTES > EVENTS.query(u64::from(BPF_RB_RING_SIZE))
}

/// Puts a record into the ring, or counts its loss.
#[inline(always)]
pub fn emit<T: 'static>(record: T) {
    match EVENTS.reserve::<T>(0) {
        Some(mut entry) => {
            entry.write(record);
            entry.submit(wakeup(&EVENTS));
        }
        None => lose!(ring),
    }
}

/// Flags to submit with.
#[inline(always)]
pub fn wakeup(ring: &RingBuf) -> u64 {
    let waiting = ring.query(u64::from(BPF_RB_AVAIL_DATA));
    u64::from(if waiting > WAKE_BYTES { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP })
}
