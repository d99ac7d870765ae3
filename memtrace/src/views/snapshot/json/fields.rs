//! The records of a snapshot's line, each listed once: what is written from them is read back into them. Any file may be
//! read: what no snapshot has is refused.

use super::values::{Device, Named, Permissions, Str, Twin};
use crate::snapshot::diff::difference;
use crate::snapshot::rows::Sums;
use crate::snapshot::{
    Allocator, Counters, Detail, GivenUp, MappedFile, Mapping, Reason, Resident, Rollup, Source, SourceCost, Thread,
};
use crate::statement::Kind;
use crate::views::json::untrusted::Address;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;

/// Signed bytes, one counter each: what happened between two readings.
#[derive(Deserialize, Serialize)]
pub(super) struct ChangeFields {
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
    pub(super) const fn of(from: Counters, to: Counters) -> Self {
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

    pub(super) const fn after(&self, from: Counters) -> Counters {
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

/// What of a rollup does not stand in the line itself.
#[derive(Deserialize, Serialize)]
pub(super) struct RollupFields {
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
    pub(super) const fn of(r: Rollup) -> Self {
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

    /// With what stands in the line.
    pub(super) const fn rollup(&self, pss: u64, swap_pss: u64, private_file: Option<u64>) -> Rollup {
        Rollup {
            rss: self.rss,
            pss,
            private_clean: self.private_clean,
            private_dirty: self.private_dirty,
            shared_clean: self.shared_clean,
            shared_dirty: self.shared_dirty,
            anonymous: self.anonymous,
            swap: self.swap,
            swap_pss,
            hugetlb: self.hugetlb,
            locked: self.locked,
            private_file,
        }
    }
}

/// What of a mapping, or of several, is where: by the names of [`Sums::AMOUNTS`].
#[derive(Default)]
pub(super) struct AmountFields([Option<u64>; Sums::AMOUNTS.len()]);

impl AmountFields {
    pub(super) fn of(sums: &Sums) -> Self {
        Self(sums.amounts())
    }

    /// Each all or none.
    fn known(&self) -> (Option<Resident>, Option<Detail>) {
        let [_, rss, anonymous, pss, private_clean, private_dirty, shared_clean, shared_dirty, rest @ ..] = self.0;
        let [swap, swap_pss, locked, huge, hugetlb, ksm, lazy_free] = rest;
        let resident = || Some(Resident { rss: rss?, anonymous: anonymous?, swap, huge: huge? });
        let detail = || {
            Some(Detail {
                pss: pss?,
                private_clean: private_clean?,
                private_dirty: private_dirty?,
                shared_clean: shared_clean?,
                shared_dirty: shared_dirty?,
                swap_pss: swap_pss?,
                locked: locked?,
                hugetlb: hugetlb?,
                ksm: ksm?,
                lazy_free: lazy_free?,
            })
        };
        (resident(), detail())
    }
}

impl Serialize for AmountFields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(Sums::AMOUNTS.iter().zip(&self.0))
    }
}

impl<'de> Deserialize<'de> for AmountFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ByName;
        impl<'de> Visitor<'de> for ByName {
            type Value = AmountFields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("amounts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AmountFields, A::Error> {
                let mut amounts = AmountFields::default();
                while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                    match Sums::AMOUNTS.iter().position(|amount| *amount == name) {
                        Some(at) => amounts.0[at] = map.next_value()?,
                        None => _ = map.next_value::<IgnoredAny>()?,
                    }
                }
                Ok(amounts)
            }
        }
        deserializer.deserialize_map(ByName)
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct MappingFields<'a> {
    kind: Named<Kind>,
    name: Str<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_hex: Option<Twin<'a>>,
    allocator: Option<Named<Allocator>>,
    thread: Option<ThreadFields<'a>>,
    start: Address,
    end: Address,
    permissions: Permissions,
    offset: Address,
    device: Device,
    inode: u64,
    #[serde(flatten)]
    amounts: AmountFields,
}

impl<'a> MappingFields<'a> {
    pub(super) fn of(m: &'a Mapping) -> Self {
        let (name, name_hex) = Str::of(&m.name);
        Self {
            kind: Named(m.kind),
            name,
            name_hex,
            allocator: m.allocator.map(Named),
            thread: m.thread.as_ref().map(ThreadFields::of),
            start: Address(m.start),
            end: Address(m.end),
            permissions: Permissions(m.permissions),
            offset: Address(m.offset),
            device: Device(m.device),
            inode: m.inode,
            amounts: AmountFields::of(&m.into()),
        }
    }

    pub(super) fn mapping(self) -> Result<Mapping, String> {
        if self.start.0 >= self.end.0 {
            return Err("a mapping ends before it begins".to_owned());
        }
        let (resident, detail) = self.amounts.known();
        Ok(Mapping {
            start: self.start.0,
            end: self.end.0,
            permissions: self.permissions.0,
            offset: self.offset.0,
            device: self.device.0,
            inode: self.inode,
            kind: self.kind.0,
            name: self.name.whole(self.name_hex),
            allocator: self.allocator.map(|allocator| allocator.0),
            thread: self.thread.map(ThreadFields::thread),
            resident,
            detail,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct ThreadFields<'a> {
    tid: u32,
    comm: Str<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_hex: Option<Twin<'a>>,
}

impl<'a> ThreadFields<'a> {
    fn of(thread: &'a Thread) -> Self {
        let (comm, comm_hex) = Str::of(&thread.comm);
        Self { tid: thread.tid, comm, comm_hex }
    }

    fn thread(self) -> Thread {
        Thread { tid: self.tid, comm: self.comm.whole(self.comm_hex) }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct FileFields<'a> {
    path: Str<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<Twin<'a>>,
    device: Device,
    inode: u64,
    size: Option<u64>,
    mapped: u64,
    resident: Option<u64>,
    on_disk: Option<bool>,
    page_cache: Option<u64>,
    dirty: Option<u64>,
    writeback: Option<u64>,
    #[serde(skip_deserializing)]
    not_loaded: Option<u64>,
    writable_shared: bool,
}

impl<'a> FileFields<'a> {
    pub(super) fn of(f: &'a MappedFile) -> Self {
        let (path, path_hex) = Str::of(&f.path);
        Self {
            path,
            path_hex,
            device: Device(f.device),
            inode: f.inode,
            size: f.size,
            mapped: f.mapped,
            resident: f.resident,
            on_disk: f.on_disk,
            page_cache: f.page_cache,
            dirty: f.dirty,
            writeback: f.writeback,
            not_loaded: f.not_loaded(),
            writable_shared: f.writable_shared,
        }
    }

    pub(super) fn file(self) -> MappedFile {
        MappedFile {
            path: self.path.whole(self.path_hex),
            device: self.device.0,
            inode: self.inode,
            size: self.size,
            mapped: self.mapped,
            resident: self.resident,
            on_disk: self.on_disk,
            page_cache: self.page_cache,
            dirty: self.dirty,
            writeback: self.writeback,
            writable_shared: self.writable_shared,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct SourceFields {
    source: Named<Source>,
    cost_ns: u64,
    longest_call_ns: u64,
    calls: u32,
}

impl SourceFields {
    pub(super) const fn of(s: &SourceCost) -> Self {
        Self { source: Named(s.source), cost_ns: s.cost_ns, longest_call_ns: s.longest_call_ns, calls: s.calls }
    }

    pub(super) const fn cost(self) -> SourceCost {
        let Self { source: Named(source), cost_ns, longest_call_ns, calls } = self;
        SourceCost { source, cost_ns, longest_call_ns, calls }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct GivenUpFields<'a> {
    source: Named<Source>,
    reason: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capability: Option<Str<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<Str<'a>>,
}

impl<'a> GivenUpFields<'a> {
    pub(super) fn of(given_up: &'a GivenUp) -> Self {
        let (source, reason) = (Named(given_up.source), given_up.reason.name().into());
        let bare = Self { source, reason, capability: None, estimate_ns: None, limit_ns: None, what: None };
        let text = |text: &'a str| Some(Str::of(text.as_bytes()).0);
        match &given_up.reason {
            Reason::NotPermitted { capability } => Self { capability: text(capability), ..bare },
            Reason::OverBudget { estimate_ns, limit_ns } => {
                Self { estimate_ns: Some(*estimate_ns), limit_ns: Some(*limit_ns), ..bare }
            }
            Reason::Failed { what } => Self { what: text(what), ..bare },
            Reason::NotOffered | Reason::Gone => bare,
        }
    }

    pub(super) fn given_up(self) -> Result<GivenUp, String> {
        let text = |text: Option<Str<'_>>| {
            text.map(|text| String::from_utf8_lossy(&text.whole(None)).into_owned()).unwrap_or_default()
        };
        let reason = match (&*self.reason, self.estimate_ns, self.limit_ns) {
            ("not_permitted", ..) => Reason::NotPermitted { capability: text(self.capability) },
            ("over_budget", Some(estimate_ns), Some(limit_ns)) => Reason::OverBudget { estimate_ns, limit_ns },
            ("not_offered", ..) => Reason::NotOffered,
            ("gone", ..) => Reason::Gone,
            ("failed", ..) => Reason::Failed { what: text(self.what) },
            (other, ..) => return Err(format!("`reason` is unknown or incomplete: {other:.40}")),
        };
        Ok(GivenUp { source: self.source.0, reason })
    }
}
