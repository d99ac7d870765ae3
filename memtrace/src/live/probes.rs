//! Loading the BPF object and hanging its programs on their hooks. Everything is detached when [`Probes`] is dropped
//! or the process dies, whichever way: links and events are file descriptors.

use super::btf::Types;
use super::layout;
use anyhow::{Context as _, Result, anyhow};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, Queue, RingBuf};
use aya::programs::perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent};
use aya::programs::{BtfTracePoint, Iter, PerfEvent, Program, TracePoint};
use aya::{Btf, Ebpf, EbpfLoader};
use bytemuck::Pod;
use memtrace_common::{Cause, Control, Cpu, Losses, NO_SLOT, Overflow, Slot, Thread};
use std::io::Read as _;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("MEMTRACE_BPF_OBJECT_PATH"));

/// A wire struct as a map's value.
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
}

impl Sizes {
    /// For one process, or a process and its children.
    #[must_use]
    pub const fn of(follow: bool) -> Self {
        if follow {
            Self { slots: 1024, threads: 16384, records: 65536, ring_bytes: 8 << 20 }
        } else {
            Self { slots: 8, threads: 16384, records: 32768, ring_bytes: 4 << 20 }
        }
    }
}

/// What to load.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Trace children too.
    pub follow: bool,
    /// Time every fault, not one in sixteen.
    pub time_all: bool,
    /// Map sizes.
    pub sizes: Sizes,
}

/// BTF tracepoints that every session hangs on.
const BTF_TRACEPOINTS: &[&str] = &[
    "rss_stat",
    "page_fault_user",
    "page_fault_kernel",
    "exit_mmap",
    "sched_process_fork",
    "sched_process_exec",
    "sched_process_exit",
];

/// BTF tracepoints that only name causes: without one, its cause is told less precisely.
const OPTIONAL_TRACEPOINTS: &[&str] = &[
    "mm_vmscan_direct_reclaim_begin",
    "mm_vmscan_direct_reclaim_end",
    "mm_vmscan_memcg_reclaim_begin",
    "mm_vmscan_memcg_reclaim_end",
    "mm_vmscan_memcg_softlimit_reclaim_begin",
    "mm_vmscan_memcg_softlimit_reclaim_end",
    "mm_vmscan_node_reclaim_begin",
    "mm_vmscan_node_reclaim_end",
    "mark_victim",
];

/// System calls that change the address space.
pub const MAPPING_CALLS: &[&str] =
    &["mmap", "munmap", "mremap", "mprotect", "pkey_mprotect", "brk", "shmat", "shmdt", "remap_file_pages", "prctl"];

/// The loaded programs and their maps.
pub struct Probes {
    ebpf: Ebpf,
    /// Mapping calls and lives of tasks.
    pub ring: RingBuf<MapData>,
    /// Interval number.
    control: Array<MapData, Wire<Control>>,
    /// The traced mms.
    pub slots: Array<MapData, Wire<Slot>>,
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
    /// Traced threads.
    pub threads: HashMap<MapData, u32, Wire<Thread>>,
    /// Records of even and of odd intervals.
    pub records: [MapData; 2],
    /// What could not be hung up, with the reason.
    pub missing: Vec<(String, String)>,
    epoch: u32,
}

impl Probes {
    /// Loads and hangs up everything.
    ///
    /// # Errors
    /// The kernel's shape is not known, or it refuses a map, a program or a hook that the books need.
    pub fn load(options: Options) -> Result<Self> {
        let types = Types::read()?;
        let mut layout = layout::find(&types)?;
        layout.cpus = u32::try_from(aya::util::nr_cpus().map_err(|(path, error)| anyhow!(error).context(path))?)?;
        layout.slots = options.sizes.slots;
        layout.follow = u32::from(options.follow);
        layout.time_all = u32::from(options.time_all);
        drop(types);
        let btf = Btf::from_sys_fs().context("failed to read the kernel's BTF")?;
        let sizes = options.sizes;
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&btf))
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
            .load(OBJECT)
            .context("failed to load the BPF object")?;
        let mut missing = Vec::new();
        load_all(&mut ebpf, &btf, &mut missing)?;
        let mut take = |name: &str| ebpf.take_map(name).ok_or_else(|| anyhow!("the BPF object has no map {name}"));
        let mut probes = Self {
            ring: RingBuf::try_from(take("EVENTS")?)?,
            control: Array::try_from(take("CONTROL")?)?,
            slots: Array::try_from(take("SLOTS")?)?,
            free_slots: Queue::try_from(take("FREE_SLOTS")?)?,
            cpus: PerCpuArray::try_from(take("CPUS")?)?,
            overflow: Array::try_from(take("OVERFLOW")?)?,
            losses: PerCpuArray::try_from(take("LOSSES")?)?,
            processes: HashMap::try_from(take("PROCESSES")?)?,
            threads: HashMap::try_from(take("THREADS")?)?,
            records: [map_data(take("RECORDS_0")?)?, map_data(take("RECORDS_1")?)?],
            missing,
            epoch: 0,
            ebpf,
        };
        for slot in 0..sizes.slots.min(u32::from(NO_SLOT)) {
            probes.free_slot(slot)?;
        }
        probes.attach_all()?;
        Ok(probes)
    }

    fn attach_all(&mut self) -> Result<()> {
        // Counters last: what they need to know of a task must be seen by then.
        for name in BTF_TRACEPOINTS.iter().rev() {
            let program: &mut BtfTracePoint = program(&mut self.ebpf, name)?;
            program.attach().with_context(|| format!("failed to attach to tracepoint {name}"))?;
        }
        for name in OPTIONAL_TRACEPOINTS {
            if self.missing.iter().any(|(missing, _)| missing == name) {
                continue;
            }
            let program: &mut BtfTracePoint = program(&mut self.ebpf, name)?;
            if let Err(error) = program.attach() {
                self.missing.push(((*name).to_owned(), error.to_string()));
            }
        }
        for call in MAPPING_CALLS {
            let program: &mut TracePoint = program(&mut self.ebpf, "mapping_call_exit")?;
            if let Err(error) = program.attach("syscalls", &format!("sys_exit_{call}")) {
                if matches!(*call, "mmap" | "munmap" | "mremap" | "mprotect" | "brk") {
                    return Err(error).with_context(|| format!("failed to attach to syscalls:sys_exit_{call}"));
                }
                self.missing.push((format!("sys_exit_{call}"), error.to_string()));
            }
        }
        let cpus = aya::util::online_cpus().map_err(|(path, error)| anyhow!(error).context(path))?;
        let program: &mut PerfEvent = program(&mut self.ebpf, "page_fault_major")?;
        for cpu in cpus {
            program
                .attach(
                    PerfEventConfig::Software(SoftwareEvent::PageFaultsMaj),
                    PerfEventScope::AllProcessesOneCpu { cpu },
                    SamplePolicy::Period(1),
                    false,
                )
                .with_context(|| format!("failed to open the major-fault event on CPU {cpu}"))?;
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
        aya::maps::Map::HashMap(data) => Ok(data),
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

fn load_all(ebpf: &mut Ebpf, btf: &Btf, missing: &mut Vec<(String, String)>) -> Result<()> {
    for name in BTF_TRACEPOINTS {
        let program: &mut BtfTracePoint = program(ebpf, name)?;
        program.load(name, btf).with_context(|| format!("the kernel refuses the program for {name}"))?;
    }
    for name in OPTIONAL_TRACEPOINTS {
        let program: &mut BtfTracePoint = program(ebpf, name)?;
        if let Err(error) = program.load(name, btf) {
            missing.push(((*name).to_owned(), error.to_string()));
        }
    }
    let tracepoint: &mut TracePoint = program(ebpf, "mapping_call_exit")?;
    tracepoint.load().context("the kernel refuses the program for the mapping calls")?;
    let event: &mut PerfEvent = program(ebpf, "page_fault_major")?;
    event.load().context("the kernel refuses the program for major faults")?;
    for name in ["attach", "flush"] {
        let iterator: &mut Iter = program(ebpf, name)?;
        iterator.load("task", btf).with_context(|| format!("the kernel refuses the task iterator {name}"))?;
    }
    Ok(())
}
