//! Loading the BPF object and hanging its programs on their hooks. Everything is detached when [`Probes`] is dropped
//! or the process dies, whichever way: links and events are file descriptors.

use super::batch;
use super::btf::Types;
use super::hooks::{HOOKS, Hook, HookKind, TOGETHER};
use super::layout;
use crate::procfs::monotonic_ns;
use anyhow::{Context as _, Result, anyhow};
use aya::maps::{Array, HashMap, IterableMap as _, MapData, MapError, PerCpuArray, Queue, RingBuf};
use aya::programs::perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent};
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeScope};
use aya::programs::{BtfTracePoint, Iter, PerfEvent, Program, TracePoint, UProbe};
use aya::{Btf, Ebpf, EbpfLoader};
use bytemuck::Pod;
use memtrace_common::{
    Cause, Clock, Control, Cpu, Holder, HolderKey, KernelLayout, Losses, NO_SLOT, Overflow, SpanPoint, SpanState,
    StackKey, StackPath, WaitingRegisters,
};
use std::io::Read as _;
use std::num::NonZeroU32;
use std::path::Path;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("MEMTRACE_BPF_OBJECT_PATH"));

/// `BPF_EXIST`: an element is changed, none is made.
const BPF_EXIST: u64 = 2;

/// How often what runs on a CPU is looked at: not in step with timers that run a thousand times a second.
pub const SAMPLES_PER_SECOND: u64 = 997;
/// An interval of threads' time begins so much later than is decided, and all probes agree when: long enough for us to be
/// held up in between.
const LEAD_NS: u64 = 2_000_000;
/// Tries to read a clock that is being written.
const READ_AGAIN: u32 = 8;

/// A wire struct as a map's key or value.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Wire<T>(pub T);

// SAFETY: any bytes are a valid `T: bytemuck::Pod`, and the wrapper is transparent.
unsafe impl<T: Pod> aya::Pod for Wire<T> {}

/// How many of what the maps hold.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Mms at a time.
    pub slots: u32,
    /// Threads at a time.
    pub threads: u32,
    /// Records per interval.
    pub records: u32,
    /// Bytes of the ring; a power of two.
    pub ring_bytes: u32,
    /// Code paths that are told apart; without stacks none.
    pub paths: u32,
    /// Bytes of the ring of copied stacks; a power of two.
    pub copies_bytes: u32,
    /// Records of threads' time per interval; without time hardly any.
    pub times: u32,
    /// Places in code per interval at which threads were sampled; without time hardly any.
    pub places: u32,
    /// Threads whose time is booked; without time hardly any.
    pub clocks: u32,
    /// Threads that hold mmap_lock, and as many records of it per interval; without time hardly any.
    pub holds: u32,
    /// Threads whose spans are summed; without spans hardly any.
    pub spans: u32,
}

impl Sizes {
    /// For one process, or a process and its children; with or without stacks, threads' time and spans.
    #[must_use]
    pub const fn of(follow: bool, stacks: bool, time: bool, spans: bool) -> Self {
        // Many children that begin at once copy many stacks at once: 15,000 a second of stress-ng's, of 8 KiB each, and a tick of
        // so many takes a while.
        let (slots, records, ring_bytes, paths, copies_bytes) =
            if follow { (4096, 65536, 8 << 20, 131_072, 64 << 20) } else { (8, 32768, 4 << 20, 65536, 16 << 20) };
        // The kernel wants at least a page, and something in the table.
        let (paths, copies_bytes) = if stacks { (paths, copies_bytes) } else { (64, 4096) };
        let threads = 16384;
        let (times, places, clocks, holds) = if time { (32768, 16384, threads, 4096) } else { (1, 1, 1, 1) };
        let spans = if spans { threads } else { 1 };
        Self { slots, threads, records, ring_bytes, paths, copies_bytes, times, places, clocks, holds, spans }
    }
}

/// What to load.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Trace children too.
    pub follow: bool,
    /// Copy stacks.
    pub stacks: bool,
    /// Book threads' time.
    pub time: bool,
    /// Sum what threads do between edges.
    pub spans: bool,
    /// Map sizes.
    pub sizes: Sizes,
}

impl Options {
    /// What a session loads, and what the doctor therefore tries.
    #[must_use]
    pub const fn of(follow: bool, stacks: bool, time: bool, spans: bool) -> Self {
        Self { follow, stacks, time, spans, sizes: Sizes::of(follow, stacks, time, spans) }
    }
}

/// The loaded programs and their maps.
pub struct Probes {
    ebpf: Ebpf,
    /// Mapping calls and lives of tasks.
    pub ring: RingBuf<MapData>,
    /// Copies of stacks.
    pub copies: RingBuf<MapData>,
    /// Code paths whose stack has been copied.
    paths: HashMap<MapData, Wire<StackKey>, Wire<StackPath>>,
    /// Interval number.
    control: Array<MapData, Wire<Control>>,
    /// Slots nobody uses.
    free_slots: Queue<MapData, u32>,
    /// Each CPU's view of each slot.
    pub cpus: PerCpuArray<MapData, Wire<Cpu>>,
    /// Amounts whose record had no room.
    pub overflow: Array<MapData, Wire<Overflow>>,
    /// What was lost.
    losses: PerCpuArray<MapData, Wire<Losses>>,
    /// Traced processes.
    processes: HashMap<MapData, u32, u32>,
    /// Records of even and of odd intervals.
    pub records: [MapData; 2],
    /// Sampled faults by moment, of even and of odd intervals.
    pub moments: [MapData; 2],
    /// Clocks of threads.
    clocks: HashMap<MapData, u32, Wire<Clock>>,
    /// Threads' time in even and in odd intervals.
    pub times: [MapData; 2],
    /// Where their own code was sampled in even and in odd intervals.
    pub places: [MapData; 2],
    /// Who held mmap_lock in even and in odd intervals.
    pub holds: [MapData; 2],
    /// Who holds it.
    holders: MapData,
    /// Clocks that were never read whole, and intervals that began before the probes knew.
    torn: u64,
    /// What threads did since their last edge.
    spans: MapData,
    /// The edges' probes, by attach cookie.
    points: Array<MapData, Wire<SpanPoint>>,
    points_set: u32,
    /// The last interval in which there are edges.
    spans_until: u32,
    /// What could not be hung up, with the reason.
    pub missing: Vec<(String, String)>,
    epoch: u32,
    /// When the latest even and the latest odd interval of threads' time begins; before the first one, time goes to an odd
    /// interval that is nobody's.
    begins_ns: [u64; 2],
    follow: bool,
    stacks: bool,
    time: bool,
    sums_spans: bool,
}

/// Where the probe of an edge hangs.
#[derive(Clone, Copy, Debug)]
pub struct PointPlace<'a> {
    /// The program or library.
    pub file: &'a Path,
    /// Of the function's first instruction, in the file.
    pub offset: u64,
    /// Its return is meant.
    pub returns: bool,
    /// In this process only.
    pub pid: Option<u32>,
}

impl Probes {
    /// Loads and hangs up everything.
    ///
    /// # Errors
    /// The kernel's shape is not known, or it refuses a map, a program or a hook that the books need.
    pub fn load(options: Options) -> Result<Self> {
        let layout = layout::find(&Types::read()?)?;
        let btf = kernel_btf()?;
        let mut probes = Self::open(options, layout, &btf)?;
        for hook in HOOKS.iter().filter(|hook| options.time || !hook.time) {
            match probes.hang(hook, &btf) {
                Err(error) if hook.needed => return Err(error),
                Err(error) => probes.missing.push((hook.to_string(), format!("{error:#}"))),
                Ok(()) => {}
            }
        }
        for names in TOGETHER {
            probes.unhang_incomplete(names);
        }
        Ok(probes)
    }

    /// Takes these tracepoints down if one of them is missing.
    fn unhang_incomplete(&mut self, names: &[&str]) {
        let is = |hook: &Hook, name: &str| hook.kind == HookKind::Tracepoint && hook.name == name;
        let hooks = HOOKS.iter().filter(|hook| names.iter().any(|name| is(hook, name)));
        let is_missing = |hook: &Hook| self.missing.iter().any(|(missing, _)| *missing == hook.to_string());
        let (missing, hung): (Vec<&Hook>, Vec<&Hook>) = hooks.partition(|hook| is_missing(hook));
        let Some(first) = missing.first() else { return };
        for hook in hung {
            // Where it is not loaded, nothing of it hangs.
            if let Ok(program) = program::<BtfTracePoint>(&mut self.ebpf, hook.name) {
                let _ = program.unload();
            }
            self.missing.push((hook.to_string(), format!("of no use without {first}")));
        }
    }

    /// Makes the maps. Nothing hangs anywhere yet.
    ///
    /// # Errors
    /// The kernel refuses a map.
    pub fn open(options: Options, mut layout: KernelLayout, btf: &Btf) -> Result<Self> {
        layout.cpus = u32::try_from(aya::util::nr_cpus().map_err(|(path, error)| anyhow!(error).context(path))?)?;
        layout.follow = u32::from(options.follow);
        layout.stacks = u32::from(options.stacks);
        layout.time = u32::from(options.time);
        layout.spans = u32::from(options.spans);
        let sizes = options.sizes;
        let mut ebpf = EbpfLoader::new()
            .btf(Some(btf))
            .override_global("LAYOUT", bytemuck::bytes_of(&layout), true)
            .map_max_entries("SLOTS", sizes.slots)
            .map_max_entries("MMS", sizes.slots)
            .map_max_entries("FREE_SLOTS", sizes.slots)
            .map_max_entries("CPUS", sizes.slots)
            .map_max_entries("OVERFLOW", sizes.slots * Cause::COUNT as u32 * 2)
            .map_max_entries("CPU_OFFSETS", layout.cpus)
            .map_max_entries("THREADS", sizes.threads)
            .map_max_entries("PROCESSES", sizes.threads)
            .map_max_entries("RECORDS_0", sizes.records)
            .map_max_entries("RECORDS_1", sizes.records)
            .map_max_entries("CLOCKS", sizes.clocks)
            .map_max_entries("TIMES_0", sizes.times)
            .map_max_entries("TIMES_1", sizes.times)
            .map_max_entries("PLACES_0", sizes.places)
            .map_max_entries("PLACES_1", sizes.places)
            .map_max_entries("HOLDERS", sizes.holds)
            .map_max_entries("HOLDS_0", sizes.holds)
            .map_max_entries("HOLDS_1", sizes.holds)
            .map_max_entries("SPANS", sizes.spans)
            .map_max_entries("EVENTS", sizes.ring_bytes)
            .map_max_entries("STACKS", sizes.paths)
            .map_max_entries("STACK_COPIES", sizes.copies_bytes)
            .load(OBJECT)
            .context("failed to load the BPF object")?;
        let mut take = |name: &str| ebpf.take_map(name).ok_or_else(|| anyhow!("the BPF object has no map {name}"));
        let mut probes = Self {
            ring: RingBuf::try_from(take("EVENTS")?)?,
            copies: RingBuf::try_from(take("STACK_COPIES")?)?,
            paths: HashMap::try_from(take("STACKS")?)?,
            control: Array::try_from(take("CONTROL")?)?,
            free_slots: Queue::try_from(take("FREE_SLOTS")?)?,
            cpus: PerCpuArray::try_from(take("CPUS")?)?,
            overflow: Array::try_from(take("OVERFLOW")?)?,
            losses: PerCpuArray::try_from(take("LOSSES")?)?,
            processes: HashMap::try_from(take("PROCESSES")?)?,
            records: [map_data(take("RECORDS_0")?)?, map_data(take("RECORDS_1")?)?],
            moments: [map_data(take("MOMENTS_0")?)?, map_data(take("MOMENTS_1")?)?],
            clocks: HashMap::try_from(take("CLOCKS")?)?,
            times: [map_data(take("TIMES_0")?)?, map_data(take("TIMES_1")?)?],
            places: [map_data(take("PLACES_0")?)?, map_data(take("PLACES_1")?)?],
            holds: [map_data(take("HOLDS_0")?)?, map_data(take("HOLDS_1")?)?],
            holders: map_data(take("HOLDERS")?)?,
            torn: 0,
            spans: map_data(take("SPANS")?)?,
            points: Array::try_from(take("POINTS")?)?,
            points_set: 0,
            spans_until: u32::MAX,
            missing: Vec::new(),
            epoch: 0,
            begins_ns: [u64::MAX, 0],
            follow: options.follow,
            stacks: options.stacks,
            time: options.time,
            sums_spans: options.spans,
            ebpf,
        };
        for slot in 0..sizes.slots.min(u32::from(NO_SLOT)) {
            probes.free_slot(slot)?;
        }
        Ok(probes)
    }

    /// Loads a hook's program, if that has not been done for another hook, and hangs it up.
    ///
    /// # Errors
    /// The kernel refuses the program or the hook.
    pub fn hang(&mut self, hook: &Hook, btf: &Btf) -> Result<()> {
        let refuses = || format!("the kernel refuses the program for {hook}");
        let attach = || format!("failed to attach to {hook}");
        match hook.kind {
            HookKind::Tracepoint => {
                let program: &mut BtfTracePoint = program(&mut self.ebpf, hook.name)?;
                program.load(hook.name, btf).with_context(refuses)?;
                program.attach().with_context(attach)?;
            }
            HookKind::CallReturn => {
                let program: &mut TracePoint = program(&mut self.ebpf, "mapping_call_exit")?;
                if program.fd().is_err() {
                    program.load().with_context(refuses)?;
                }
                program.attach("syscalls", &format!("sys_exit_{}", hook.name)).with_context(attach)?;
            }
            HookKind::MajorFaults => {
                let program: &mut PerfEvent = program(&mut self.ebpf, "page_fault_major")?;
                program.load().with_context(refuses)?;
                let cpus = aya::util::online_cpus().map_err(|(path, error)| anyhow!(error).context(path))?;
                for cpu in cpus {
                    program
                        .attach(
                            PerfEventConfig::Software(SoftwareEvent::PageFaultsMaj),
                            PerfEventScope::AllProcessesOneCpu { cpu },
                            SamplePolicy::Period(1),
                            false,
                        )
                        .with_context(|| format!("failed to attach to {hook} on CPU {cpu}"))?;
                }
            }
            HookKind::TaskIterator => {
                let program: &mut Iter = program(&mut self.ebpf, hook.name)?;
                program.load("task", btf).with_context(refuses)?;
            }
            HookKind::Samples => {
                let program: &mut PerfEvent = program(&mut self.ebpf, "cpu_clock")?;
                program.load().with_context(refuses)?;
                for cpu in aya::util::online_cpus().map_err(|(path, error)| anyhow!(error).context(path))? {
                    let attached = program.attach(
                        PerfEventConfig::Software(SoftwareEvent::CpuClock),
                        PerfEventScope::AllProcessesOneCpu { cpu },
                        SamplePolicy::Frequency(SAMPLES_PER_SECOND),
                        false,
                    );
                    if let Err(error) = attached {
                        // Samples of some CPUs alone would say of a thread what depends on where it ran.
                        let _ = program.unload();
                        return Err(error).with_context(|| format!("failed to attach to {hook} on CPU {cpu}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Children are traced too.
    #[must_use]
    pub const fn follows(&self) -> bool {
        self.follow
    }

    /// Opens the books of a running process (and of those below it that the task iterator comes to after it), or (with 0) of
    /// nobody yet; also learns the CPUs' offsets.
    ///
    /// # Errors
    /// The kernel refuses the task iterator.
    pub fn attach_to(&mut self, tgid: u32) -> Result<()> {
        self.write_control(tgid)?;
        self.iterate("attach")?;
        if self.time {
            self.iterate("clocks")?;
        }
        Ok(())
    }

    fn write_control(&mut self, attach_tgid: u32) -> Result<()> {
        let Self { epoch, spans_until, begins_ns, .. } = *self;
        let control = Control { epoch, attach_tgid, spans_until, reserved: 0, begins_ns };
        self.control.set(0, Wire(control), 0).context("failed to write the control map")
    }

    /// Begins the first interval of threads' time, in a moment: see [`Self::begins_ns`].
    ///
    /// # Errors
    /// The control map cannot be written.
    pub fn begin_times(&mut self) -> Result<()> {
        self.begins_ns = [monotonic_ns() + LEAD_NS, 0];
        self.write_control(0)
    }

    /// When the latest even and the latest odd interval of threads' time begins. The last one set may be in a moment.
    #[must_use]
    pub const fn begins_ns(&self) -> [u64; 2] {
        self.begins_ns
    }

    /// Whether threads' time is booked.
    #[must_use]
    pub const fn books_time(&self) -> bool {
        self.time
    }

    /// Every thread's clock. One that was written while it was read is read again; one that is written whenever it is read
    /// counts as lost.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn clocks(&mut self) -> Result<Vec<Clock>> {
        let mut read = Vec::new();
        batch::look::<u32, Clock>(self.clocks.map(), |tid, clock| read.push((*tid, *clock)))
            .context("failed to read the clocks")?;
        let mut clocks = Vec::with_capacity(read.len());
        for (tid, clock) in read {
            let mut found = Some(clock);
            let mut tries = 0;
            while found.is_some_and(|clock| clock.done != clock.begun) && tries < READ_AGAIN {
                found = self.clock(tid)?;
                tries += 1;
            }
            match found {
                Some(clock) if clock.done == clock.begun => clocks.push(clock),
                Some(_) => self.torn += 1,
                // The probes remove a clock themselves only when nothing of it is left to be told.
                None => {}
            }
        }
        Ok(clocks)
    }

    fn clock(&self, tid: u32) -> Result<Option<Clock>> {
        match self.clocks.get(&tid, 0) {
            Ok(Wire(clock)) => Ok(Some(clock)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error).context("failed to read a clock"),
        }
    }

    /// Who holds mmap_lock, or held it last.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn holders(&self) -> Result<Vec<(HolderKey, Holder)>> {
        let mut holders = Vec::new();
        batch::look::<HolderKey, Holder>(&self.holders, |key, holder| holders.push((*key, *holder)))
            .context("failed to read the holders of mmap_lock")?;
        Ok(holders)
    }

    /// Forgets the clock of a thread that has ended, unless it has become another thread's meanwhile.
    ///
    /// # Errors
    /// The map cannot be read or written.
    pub fn forget_clock(&mut self, tid: u32) -> Result<()> {
        if self.clock(tid)?.is_none_or(|clock| clock.ended == 0) {
            return Ok(());
        }
        match self.clocks.remove(&tid) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(error).context("failed to remove a clock"),
        }
    }

    /// User registers of each traced thread that is off the CPU, in the order of `struct pt_regs`, by thread. A thread may
    /// run again by the time that they are used.
    ///
    /// # Errors
    /// The kernel refuses the task iterator.
    pub fn waiting_registers(&mut self) -> Result<Vec<(u32, [u64; 21])>> {
        let output = self.iterate("registers")?;
        let records = output.chunks_exact(size_of::<WaitingRegisters>());
        Ok(records
            .map(bytemuck::pod_read_unaligned::<WaitingRegisters>)
            .filter_map(|record| Some((u32::try_from(record.tid).ok()?, record.regs)))
            .collect())
    }

    /// Books every thread's last fault if that is over and changed no counter.
    ///
    /// # Errors
    /// The kernel refuses the task iterator.
    pub fn flush(&mut self) -> Result<()> {
        self.iterate("flush").map(drop)
    }

    /// Runs a program on every task. What it writes is returned.
    fn iterate(&mut self, name: &str) -> Result<Vec<u8>> {
        let iterator: &mut Iter = program(&mut self.ebpf, name)?;
        let link = iterator.attach().context("failed to create the task iterator")?;
        let link = iterator.take_link(link).context("failed to take the task iterator's link")?;
        let mut output = Vec::new();
        link.into_file()
            .context("failed to open the task iterator")?
            .read_to_end(&mut output)
            .context("failed to run the task iterator")?;
        Ok(output)
    }

    /// Traces a process from its next execve on.
    ///
    /// # Errors
    /// The map is full.
    pub fn await_exec_of(&mut self, tgid: u32) -> Result<()> {
        self.processes.insert(tgid, 1, 0).context("failed to register the process")
    }

    /// Number of the current interval.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Begins the next interval and waits until no program writes into the former any more.
    ///
    /// # Errors
    /// The control map cannot be written.
    pub fn next_epoch(&mut self) -> Result<()> {
        self.epoch += 1;
        if self.time {
            self.begins_ns[(self.epoch & 1) as usize] = monotonic_ns() + LEAD_NS;
        }
        self.write_control(0)?;
        // We were held up: what came meanwhile is in the interval before, beyond its end.
        self.torn += u64::from(self.time && monotonic_ns() > self.begins_ns[(self.epoch & 1) as usize]);
        Ok(())
    }

    /// Hangs the probe of an edge on an instruction of a file: in one process, or wherever the file is mapped. Who is not
    /// traced pays for the trap all the same, so one process is better.
    ///
    /// # Errors
    /// There are too many, or the kernel refuses the program or the place.
    pub fn add_point(&mut self, point: SpanPoint, at: &PointPlace<'_>) -> Result<()> {
        let cookie = self.points_set;
        self.points.set(cookie, Wire(point), 0).context("there are too many functions that begin or end a span")?;
        self.points_set += 1;
        let name = if at.returns { "span_return" } else { "span_entry" };
        let program: &mut UProbe = program(&mut self.ebpf, name)?;
        if program.fd().is_err() {
            program.load().with_context(|| format!("the kernel refuses the BPF program {name}"))?;
        }
        let scope = match at.pid.and_then(NonZeroU32::new) {
            Some(pid) => UProbeScope::OneProcess(pid),
            None => UProbeScope::AllProcesses,
        };
        let location = UProbeAttachLocation::AbsoluteOffset(at.offset);
        let place = UProbeAttachPoint { location, cookie: Some(u64::from(cookie)) };
        program.attach(place, at.file, scope).context("the kernel refuses a probe there")?;
        Ok(())
    }

    /// The interval is the last in which there are edges, and in which anything is summed between them. The probes know
    /// before the next one begins: whoever sees that one sees this, too.
    ///
    /// # Errors
    /// The control map cannot be written.
    pub fn end_spans(&mut self) -> Result<()> {
        self.spans_until = self.epoch;
        self.write_control(0)
    }

    /// What each thread did since its last edge. To be called when nothing is summed any more.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn spans(&self) -> Result<Vec<(u32, SpanState)>> {
        let mut states = Vec::new();
        batch::look::<u32, SpanState>(&self.spans, |tid, state| states.push((*tid, *state)))
            .context("failed to read the spans")?;
        Ok(states)
    }

    /// Whether there were spans, and [`Self::end_spans`] was called.
    #[must_use]
    pub const fn spans_are_over(&self) -> bool {
        self.sums_spans && self.spans_until != u32::MAX
    }

    /// Tells the probes where the return addresses of these code paths lie, so that they see when another path comes to
    /// the same place. A path that they have forgotten meanwhile is copied again when it is met again.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn learn_paths(&mut self, paths: &[(StackKey, StackPath)]) -> Result<()> {
        for (key, path) in paths {
            match self.paths.insert(Wire(*key), Wire(*path), BPF_EXIST) {
                Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {}
                other => other.context("failed to write the code paths")?,
            }
        }
        Ok(())
    }

    /// Whether stacks are copied.
    #[must_use]
    pub const fn copies_stacks(&self) -> bool {
        self.stacks
    }

    /// Gives a slot back to the probes.
    ///
    /// # Errors
    /// The queue is full.
    pub fn free_slot(&mut self, slot: u32) -> Result<()> {
        self.free_slots.push(slot, 0).context("failed to return a slot")
    }

    /// What the probes lost so far, all CPUs.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn losses(&self) -> Result<Losses> {
        let mut sum = Losses::default();
        for Wire(cpu) in self.losses.get(&0, 0).context("failed to read the losses")?.iter() {
            sum.records += cpu.records;
            sum.ring += cpu.ring;
            sum.threads += cpu.threads;
            sum.mms += cpu.mms;
            sum.stacks += cpu.stacks;
            sum.times += cpu.times;
        }
        sum.times += self.torn;
        Ok(sum)
    }

    /// Every program's name and descriptor.
    pub fn programs(&self) -> impl Iterator<Item = (&str, &Program)> {
        self.ebpf.programs()
    }

    /// The object itself, for the log of the probes.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

fn map_data(map: aya::maps::Map) -> Result<MapData> {
    match map {
        aya::maps::Map::HashMap(data) | aya::maps::Map::LruHashMap(data) => Ok(data),
        _ => Err(anyhow!("the record maps are no hash maps")),
    }
}

fn program<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut T>
where
    &'a mut T: TryFrom<&'a mut Program, Error = aya::programs::ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or_else(|| anyhow!("the BPF object has no program {name}"))?;
    program.try_into().with_context(|| format!("program {name} is of another type"))
}

/// The kernel's types, as aya wants them.
///
/// # Errors
/// They cannot be read.
pub fn kernel_btf() -> Result<Btf> {
    Btf::from_sys_fs().context("failed to read the kernel's BTF")
}
