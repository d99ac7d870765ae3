//! Snapshots that were written with `--json`, read back: the reverse of [`crate::views::snapshot::json`].
//! A file may be anyone's: its size is limited, what is no snapshot is refused with its line, lines of other types are
//! skipped, and what can be derived (`kinds`, `res`, `not_loaded`) is not believed but left out.

use super::diff::difference;
use super::{
    Allocator, Counters, Detail, GivenUp, MappedFile, Mapping, Process, Reason, Resident, Rollup, Source, SourceCost,
    Thread,
};
use crate::event::permission;
use crate::statement::Kind;
use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufRead};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// No file is larger: a million mappings take half of it.
const FILE_LIMIT: u64 = 1 << 30;
/// The kernel's cap on what a reader keeps of a command line is a page.
const CMDLINE_LIMIT: usize = 4096;

/// Why a file is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A read failed.
    #[error("failed to read")]
    Read(#[from] io::Error),
    /// More than [`FILE_LIMIT`].
    #[error("larger than {} MiB, which no snapshot is", FILE_LIMIT >> 20)]
    TooLarge,
    /// No line is a process's.
    #[error("no line of it is a snapshot")]
    Empty,
    /// A line is not what `--json` writes.
    #[error("line {line}: {what}")]
    Line {
        /// Which, from 1.
        line: u64,
        /// What is wrong. Escape it.
        what: String,
    },
}

/// Reads the processes of a file, in its order.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn read(file: impl BufRead) -> Result<Vec<Process>, Error> {
    let mut file = file.take(FILE_LIMIT + 1);
    let mut processes = Vec::new();
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        if file.read_until(b'\n', &mut text)? == 0 {
            break;
        }
        if file.limit() == 0 {
            return Err(Error::TooLarge);
        }
        processes.extend(process(&text).map_err(|what| Error::Line { line, what })?);
    }
    if processes.is_empty() { Err(Error::Empty) } else { Ok(processes) }
}

/// `None` for lines of other types, and for empty ones.
fn process(line: &[u8]) -> Result<Option<Process>, String> {
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    let head: Head<'_> = parse(line)?;
    if head.r#type != "snapshot" {
        return Ok(None);
    }
    if head.schema != Some(1) {
        return Err("a snapshot of another schema than 1".to_owned());
    }
    parse::<ProcessLine>(line)?.process().map(Some)
}

fn parse<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(line).map_err(|error| {
        // The position is within the line, which serde_json takes for a file.
        let what = error.to_string();
        let what = what.split(" at line ").next().unwrap_or_default();
        format!("column {}: {what}", error.column())
    })
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    schema: Option<u64>,
}

#[derive(Deserialize)]
struct ProcessLine {
    time: String,
    pid: u32,
    start_time: u64,
    comm: Option<String>,
    comm_hex: Option<HexBytes>,
    exe: Option<String>,
    exe_hex: Option<HexBytes>,
    cmdline: Arguments,
    cmdline_hex: Option<HexBytes>,
    state: char,
    page_size: u64,
    virt: Option<u64>,
    anon: Option<u64>,
    file: Option<u64>,
    shmem: Option<u64>,
    swap: Option<u64>,
    hugetlb: Option<u64>,
    locked: Option<u64>,
    page_tables: Option<u64>,
    pss: Option<u64>,
    private_file: Option<u64>,
    swap_pss: Option<u64>,
    changed_meanwhile: Option<ChangeFields>,
    rollup: Option<RollupFields>,
    mappings: Option<Vec<MappingFields>>,
    files: Option<Vec<FileFields>>,
    sources: Vec<SourceFields>,
    given_up: Vec<GivenUpFields>,
}

impl ProcessLine {
    fn process(self) -> Result<Process, String> {
        let (counters, rollup) = (self.counters(), self.rollup());
        let mappings: Option<Vec<Mapping>> =
            self.mappings.map(|mappings| mappings.into_iter().map(MappingFields::mapping).collect()).transpose()?;
        if mappings.as_ref().is_some_and(|mappings| !mappings.is_sorted_by(|a, b| a.end <= b.start)) {
            return Err("mappings overlap or are not in the order of their addresses".to_owned());
        }
        let time = OffsetDateTime::parse(&self.time, &Rfc3339).map_err(|_| "`time` is no time".to_owned())?;
        Ok(Process {
            pid: self.pid,
            start_time: self.start_time,
            comm: bytes(self.comm, self.comm_hex),
            exe: self.exe_hex.map(|hex| hex.0).or_else(|| self.exe.map(String::into_bytes)),
            cmdline: self.cmdline_hex.map_or(self.cmdline.0, |hex| hex.0),
            time_ns: i64::try_from(time.unix_timestamp_nanos()).map_err(|_| "`time` is out of range".to_owned())?,
            page_size: self.page_size,
            state: u8::try_from(self.state).map_err(|_| "`state` is no state".to_owned())?,
            counters,
            counters_after: counters.zip(self.changed_meanwhile).map(|(counters, changes)| changes.after(counters)),
            rollup,
            mappings,
            files: self
                .files
                .map(|files| files.into_iter().map(FileFields::file).collect::<Result<_, _>>())
                .transpose()?,
            sources: self.sources.into_iter().map(SourceFields::cost).collect::<Result<_, _>>()?,
            given_up: self.given_up.into_iter().map(GivenUpFields::given_up).collect::<Result<_, _>>()?,
        })
    }

    /// All or none.
    fn counters(&self) -> Option<Counters> {
        Some(Counters {
            virt: self.virt?,
            anon: self.anon?,
            file: self.file?,
            shmem: self.shmem?,
            swap: self.swap?,
            hugetlb: self.hugetlb?,
            locked: self.locked?,
            page_tables: self.page_tables?,
        })
    }

    fn rollup(&self) -> Option<Rollup> {
        let rest = self.rollup.as_ref()?;
        Some(Rollup {
            rss: rest.rss,
            pss: self.pss?,
            private_clean: rest.private_clean,
            private_dirty: rest.private_dirty,
            shared_clean: rest.shared_clean,
            shared_dirty: rest.shared_dirty,
            anonymous: rest.anonymous,
            swap: rest.swap,
            swap_pss: self.swap_pss?,
            hugetlb: rest.hugetlb,
            locked: rest.locked,
            private_file: self.private_file,
        })
    }
}

/// The twin where there is one, else the string; nothing for `null`.
fn bytes(text: Option<String>, hex: Option<HexBytes>) -> Vec<u8> {
    hex.map_or_else(|| text.unwrap_or_default().into_bytes(), |hex| hex.0)
}

/// Bytes in hexadecimal.
struct HexBytes(Vec<u8>);

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
            return Err(D::Error::custom("an odd number of hexadecimal digits"));
        };
        let bytes = pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect::<Option<_>>();
        bytes.map(Self).ok_or_else(|| D::Error::custom("not hexadecimal"))
    }
}

/// A command line as one string of bytes, each argument ended by NUL.
struct Arguments(Vec<u8>);

impl<'de> Deserialize<'de> for Arguments {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Join;
        impl<'de> Visitor<'de> for Join {
            type Value = Arguments;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of arguments")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut arguments: A) -> Result<Arguments, A::Error> {
                let mut joined = Vec::new();
                while joined.len() <= CMDLINE_LIMIT {
                    let Some(argument) = arguments.next_element::<String>()? else { return Ok(Arguments(joined)) };
                    joined.extend_from_slice(argument.as_bytes());
                    joined.push(0);
                }
                // Others are read and forgotten.
                while arguments.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Arguments(joined))
            }
        }
        deserializer.deserialize_seq(Join)
    }
}

/// An address as a string, `0x7f12a4000000`.
struct Address(u64);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let address = text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
        address
            .map(Self)
            .ok_or_else(|| D::Error::custom("an address begins with 0x and has 16 hexadecimal digits at most"))
    }
}

/// `8:2`
fn device(text: &str) -> Result<u64, String> {
    let parts = || {
        let (major, minor) = text.split_once(':')?;
        Some(u64::from(major.parse::<u32>().ok()?) << 32 | u64::from(minor.parse::<u32>().ok()?))
    };
    parts().ok_or_else(|| "`device` is not MAJOR:MINOR".to_owned())
}

/// What a name of the contract means.
fn named<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str, wanted: &str, field: &str) -> Result<T, String> {
    all.iter().copied().find(|&item| name(item) == wanted).ok_or_else(|| format!("`{field}` is unknown: {wanted:.40}"))
}

/// Signed bytes, one counter each: what happened between two readings. Both ways of the contract.
#[derive(Deserialize, Serialize)]
pub(crate) struct ChangeFields {
    anon: i64,
    file: i64,
    shmem: i64,
    swap: i64,
    virt: i64,
    hugetlb: i64,
    locked: i64,
    page_tables: i64,
}

impl ChangeFields {
    pub(crate) const fn of(from: Counters, to: Counters) -> Self {
        Self {
            anon: difference(from.anon, to.anon),
            file: difference(from.file, to.file),
            shmem: difference(from.shmem, to.shmem),
            swap: difference(from.swap, to.swap),
            virt: difference(from.virt, to.virt),
            hugetlb: difference(from.hugetlb, to.hugetlb),
            locked: difference(from.locked, to.locked),
            page_tables: difference(from.page_tables, to.page_tables),
        }
    }

    const fn after(&self, from: Counters) -> Counters {
        Counters {
            virt: from.virt.wrapping_add_signed(self.virt),
            anon: from.anon.wrapping_add_signed(self.anon),
            file: from.file.wrapping_add_signed(self.file),
            shmem: from.shmem.wrapping_add_signed(self.shmem),
            swap: from.swap.wrapping_add_signed(self.swap),
            hugetlb: from.hugetlb.wrapping_add_signed(self.hugetlb),
            locked: from.locked.wrapping_add_signed(self.locked),
            page_tables: from.page_tables.wrapping_add_signed(self.page_tables),
        }
    }
}

/// What of a rollup does not stand in the line itself. Both ways of the contract.
#[derive(Deserialize, Serialize)]
pub(crate) struct RollupFields {
    rss: u64,
    anonymous: u64,
    private_clean: u64,
    private_dirty: u64,
    shared_clean: u64,
    shared_dirty: u64,
    swap: u64,
    hugetlb: u64,
    locked: u64,
}

impl RollupFields {
    pub(crate) const fn of(r: Rollup) -> Self {
        Self {
            rss: r.rss,
            anonymous: r.anonymous,
            private_clean: r.private_clean,
            private_dirty: r.private_dirty,
            shared_clean: r.shared_clean,
            shared_dirty: r.shared_dirty,
            swap: r.swap,
            hugetlb: r.hugetlb,
            locked: r.locked,
        }
    }
}

#[derive(Deserialize)]
struct MappingFields {
    kind: String,
    name: Option<String>,
    name_hex: Option<HexBytes>,
    allocator: Option<String>,
    thread: Option<ThreadFields>,
    start: Address,
    end: Address,
    permissions: String,
    offset: Address,
    device: String,
    inode: u64,
    rss: Option<u64>,
    anonymous: Option<u64>,
    pss: Option<u64>,
    private_clean: Option<u64>,
    private_dirty: Option<u64>,
    shared_clean: Option<u64>,
    shared_dirty: Option<u64>,
    swap: Option<u64>,
    swap_pss: Option<u64>,
    locked: Option<u64>,
    huge: Option<u64>,
    hugetlb: Option<u64>,
    ksm: Option<u64>,
    lazy_free: Option<u64>,
}

impl MappingFields {
    fn mapping(self) -> Result<Mapping, String> {
        if self.start.0 >= self.end.0 {
            return Err("a mapping ends before it begins".to_owned());
        }
        let (resident, detail) = (self.resident(), self.detail());
        let allocator =
            self.allocator.map(|name| named(&Allocator::ALL, Allocator::name, &name, "allocator")).transpose()?;
        Ok(Mapping {
            start: self.start.0,
            end: self.end.0,
            permissions: permissions(&self.permissions)?,
            offset: self.offset.0,
            device: device(&self.device)?,
            inode: self.inode,
            kind: named(&Kind::ALL, Kind::name, &self.kind, "kind")?,
            name: bytes(self.name, self.name_hex),
            allocator,
            thread: self.thread.map(ThreadFields::thread),
            resident,
            detail,
        })
    }

    fn resident(&self) -> Option<Resident> {
        Some(Resident { rss: self.rss?, anonymous: self.anonymous?, swap: self.swap, huge: self.huge? })
    }

    fn detail(&self) -> Option<Detail> {
        Some(Detail {
            pss: self.pss?,
            private_clean: self.private_clean?,
            private_dirty: self.private_dirty?,
            shared_clean: self.shared_clean?,
            shared_dirty: self.shared_dirty?,
            swap_pss: self.swap_pss?,
            locked: self.locked?,
            hugetlb: self.hugetlb?,
            ksm: self.ksm?,
            lazy_free: self.lazy_free?,
        })
    }
}

/// `rw-p`
fn permissions(text: &str) -> Result<u8, String> {
    const LETTERS: [(u8, u8, u8); 4] = [
        (b'r', b'-', permission::READ),
        (b'w', b'-', permission::WRITE),
        (b'x', b'-', permission::EXECUTE),
        (b's', b'p', permission::SHARED),
    ];
    let wrong = || "`permissions` are not like rw-p".to_owned();
    let letters: &[u8; 4] = text.as_bytes().try_into().map_err(|_| wrong())?;
    LETTERS.iter().zip(letters).try_fold(0, |bits, (&(set, unset, bit), &letter)| match letter {
        letter if letter == set => Ok(bits | bit),
        letter if letter == unset => Ok(bits),
        _ => Err(wrong()),
    })
}

#[derive(Deserialize)]
struct ThreadFields {
    tid: u32,
    comm: Option<String>,
    comm_hex: Option<HexBytes>,
}

impl ThreadFields {
    fn thread(self) -> Thread {
        Thread { tid: self.tid, comm: bytes(self.comm, self.comm_hex) }
    }
}

#[derive(Deserialize)]
struct FileFields {
    path: Option<String>,
    path_hex: Option<HexBytes>,
    device: String,
    inode: u64,
    size: Option<u64>,
    mapped: u64,
    resident: Option<u64>,
    on_disk: Option<bool>,
    page_cache: Option<u64>,
    dirty: Option<u64>,
    writeback: Option<u64>,
    writable_shared: bool,
}

impl FileFields {
    fn file(self) -> Result<MappedFile, String> {
        Ok(MappedFile {
            path: bytes(self.path, self.path_hex),
            device: device(&self.device)?,
            inode: self.inode,
            size: self.size,
            mapped: self.mapped,
            resident: self.resident,
            on_disk: self.on_disk,
            page_cache: self.page_cache,
            dirty: self.dirty,
            writeback: self.writeback,
            writable_shared: self.writable_shared,
        })
    }
}

#[derive(Deserialize)]
struct SourceFields {
    source: String,
    cost_ns: u64,
    longest_call_ns: u64,
    calls: u32,
}

impl SourceFields {
    fn cost(self) -> Result<SourceCost, String> {
        let source = named(&Source::ALL, Source::name, &self.source, "source")?;
        Ok(SourceCost { source, cost_ns: self.cost_ns, longest_call_ns: self.longest_call_ns, calls: self.calls })
    }
}

#[derive(Deserialize)]
struct GivenUpFields {
    source: String,
    reason: String,
    capability: Option<String>,
    estimate_ns: Option<u64>,
    limit_ns: Option<u64>,
    what: Option<String>,
}

impl GivenUpFields {
    fn given_up(self) -> Result<GivenUp, String> {
        let reason = match (self.reason.as_str(), self.estimate_ns, self.limit_ns) {
            ("not_permitted", ..) => Reason::NotPermitted { capability: self.capability.unwrap_or_default() },
            ("over_budget", Some(estimate_ns), Some(limit_ns)) => Reason::OverBudget { estimate_ns, limit_ns },
            ("not_offered", ..) => Reason::NotOffered,
            ("gone", ..) => Reason::Gone,
            ("failed", ..) => Reason::Failed { what: self.what.unwrap_or_default() },
            (other, ..) => return Err(format!("`reason` is unknown or incomplete: {other:.40}")),
        };
        Ok(GivenUp { source: named(&Source::ALL, Source::name, &self.source, "source")?, reason })
    }
}
