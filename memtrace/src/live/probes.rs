//! Loading the BPF object and hanging its programs on their hooks. Everything is detached when [`Probes`] is dropped
//! or the process dies, whichever way: links and events are file descriptors.

use super::btf::Types;
use super::layout;
use anyhow::{Context as _, Result, anyhow};
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, Queue, RingBuf};
use aya::programs::perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent};
use aya::programs::{BtfTracePoint, Iter, PerfEvent, Program, TracePoint};
use aya::{Btf, Ebpf, EbpfLoader};
use bytemuck::Pod;
use memtrace_common::{Cause, Control, Cpu, KernelLayout, Losses, NO_SLOT, Overflow, StackKey, StackPath};
use std::fmt;
use std::io::Read as _;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("MEMTRACE_BPF_OBJECT_PATH"));

/// `BPF_EXIST`: an element is changed, none is made.
const BPF_EXIST: u64 = 2;

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
}

impl Sizes {
    /// For one process, or a process and its children; with or without stacks.
    #[must_use]
    pub const fn of(follow: bool, stacks: bool) -> Self {
        // Many children that begin at once copy many stacks at once: 15,000 a second of stress-ng's, of 8 KiB each, and a tick of
        // so many takes a while.
        let (slots, records, ring_bytes, paths, copies_bytes) =
            if follow { (4096, 65536, 8 << 20, 131_072, 64 << 20) } else { (8, 32768, 4 << 20, 65536, 16 << 20) };
        // The kernel wants at least a page, and something in the table.
        let (paths, copies_bytes) = if stacks { (paths, copies_bytes) } else { (64, 4096) };
        Self { slots, threads: 16384, records, ring_bytes, paths, copies_bytes }
    }
}

/// What to load.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Trace children too.
    pub follow: bool,
    /// Copy stacks.
    pub stacks: bool,
    /// Map sizes.
    pub sizes: Sizes,
}

impl Options {
    /// What a session loads, and what the doctor therefore tries.
    #[must_use]
    pub const fn of(follow: bool, stacks: bool) -> Self {
        Self { follow, stacks, sizes: Sizes::of(follow, stacks) }
    }
}

/// What kind of hook a program hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind {
    /// A tracepoint, by its BTF; the program has its name.
    Tracepoint,
    /// The return of a system call, by its classic tracepoint: of all calls only these pay for it.
    CallReturn,
    /// The software event of major faults, on every CPU.
    MajorFaults,
    /// The task iterator; the program has this name. It is loaded with the rest and runs when it is needed.
    TaskIterator,
}

/// A hook of the kernel and what memtrace learns there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// What kind.
    pub kind: HookKind,
    /// Name of the tracepoint or the system call.
    pub name: &'static str,
    /// Without it there are no books. Without one of the others, what it tells is missing.
    pub needed: bool,
    /// What it tells.
    pub tells: &'static str,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            HookKind::Tracepoint => write!(f, "tp_btf/{}", self.name),
            HookKind::CallReturn => write!(f, "syscalls:sys_exit_{}", self.name),
            HookKind::MajorFaults => write!(f, "perf_event/{}", self.name),
            HookKind::TaskIterator => write!(f, "iter/task ({})", self.name),
        }
    }
}

const fn needed(kind: HookKind, name: &'static str, tells: &'static str) -> Hook {
    Hook { kind, name, needed: true, tells }
}

const fn optional(kind: HookKind, name: &'static str, tells: &'static str) -> Hook {
    Hook { kind, name, needed: false, tells }
}

/// Every hook, in the order in which programs are hung up: counters after what they need to know of a task.
pub const HOOKS: &[Hook] = &{
    use HookKind::{CallReturn, MajorFaults, TaskIterator, Tracepoint};
    const RECLAIM: &str = "who takes pages away: direct reclaim";
    const MEMCG: &str = "who takes pages away: the cgroup's limit";
    const NODE: &str = "who takes pages away: node reclaim";
    [
        needed(Tracepoint, "sched_process_exit", "a thread or process ends"),
        needed(Tracepoint, "sched_process_exec", "a process becomes another program"),
        needed(Tracepoint, "sched_process_fork", "a child or thread is made"),
        needed(Tracepoint, "exit_mmap", "an address space is torn down"),
        needed(Tracepoint, "page_fault_kernel", "page faults in kernel mode"),
        needed(Tracepoint, "page_fault_user", "page faults in user mode"),
        needed(Tracepoint, "rss_stat", "every change of a counter"),
        optional(Tracepoint, "mm_vmscan_direct_reclaim_begin", RECLAIM),
        optional(Tracepoint, "mm_vmscan_direct_reclaim_end", RECLAIM),
        optional(Tracepoint, "mm_vmscan_memcg_reclaim_begin", MEMCG),
        optional(Tracepoint, "mm_vmscan_memcg_reclaim_end", MEMCG),
        optional(Tracepoint, "mm_vmscan_node_reclaim_begin", NODE),
        optional(Tracepoint, "mm_vmscan_node_reclaim_end", NODE),
        optional(Tracepoint, "mark_victim", "the OOM killer's choice"),
        needed(CallReturn, "mmap", "mappings made"),
        needed(CallReturn, "munmap", "mappings removed"),
        needed(CallReturn, "mremap", "mappings moved and resized"),
        needed(CallReturn, "mprotect", "mappings split by permissions"),
        optional(CallReturn, "pkey_mprotect", "mappings split by protection keys"),
        needed(CallReturn, "brk", "the heap's end"),
        optional(CallReturn, "shmat", "System V segments attached"),
        optional(CallReturn, "shmdt", "System V segments detached"),
        optional(CallReturn, "remap_file_pages", "mappings made nonlinear"),
        optional(CallReturn, "prctl", "names given to mappings"),
        needed(MajorFaults, "major-faults", "which faults the kernel counts as major"),
        needed(TaskIterator, "attach", "the address space of a process that sleeps"),
        needed(TaskIterator, "flush", "the last fault of each thread"),
    ]
};

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
    /// What could not be hung up, with the reason.
    pub missing: Vec<(String, String)>,
    epoch: u32,
    stacks: bool,
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
        for hook in HOOKS {
            match probes.hang(hook, &btf) {
                Err(error) if hook.needed => return Err(error),
                Err(error) => probes.missing.push((hook.to_string(), format!("{error:#}"))),
                Ok(()) => {}
            }
        }
        Ok(probes)
    }

    /// Makes the maps. Nothing hangs anywhere yet.
    ///
    /// # Errors
    /// The kernel refuses a map.
    pub fn open(options: Options, mut layout: KernelLayout, btf: &Btf) -> Result<Self> {
        layout.cpus = u32::try_from(aya::util::nr_cpus().map_err(|(path, error)| anyhow!(error).context(path))?)?;
        layout.follow = u32::from(options.follow);
        layout.stacks = u32::from(options.stacks);
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
            missing: Vec::new(),
            epoch: 0,
            stacks: options.stacks,
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
        }
        Ok(())
    }

    /// Opens the books of a running process, or (with 0) of nobody yet; also learns the CPUs' offsets.
    ///
    /// # Errors
    /// The kernel refuses the task iterator.
    pub fn attach_to(&mut self, tgid: u32) -> Result<()> {
        self.control
            .set(0, Wire(Control { epoch: self.epoch, attach_tgid: tgid }), 0)
            .context("failed to write the control map")?;
        self.iterate("attach")
    }

    /// Books every thread's last fault if that is over and changed no counter.
    ///
    /// # Errors
    /// The kernel refuses the task iterator.
    pub fn flush(&mut self) -> Result<()> {
        self.iterate("flush")
    }

    /// Runs a program on every task.
    fn iterate(&mut self, name: &str) -> Result<()> {
        let iterator: &mut Iter = program(&mut self.ebpf, name)?;
        let link = iterator.attach().context("failed to create the task iterator")?;
        let link = iterator.take_link(link).context("failed to take the task iterator's link")?;
        let mut output = Vec::new();
        link.into_file()
            .context("failed to open the task iterator")?
            .read_to_end(&mut output)
            .context("failed to run the task iterator")?;
        Ok(())
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
        self.control
            .set(0, Wire(Control { epoch: self.epoch, attach_tgid: 0 }), 0)
            .context("failed to write the control map")?;
        Ok(())
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
        }
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
