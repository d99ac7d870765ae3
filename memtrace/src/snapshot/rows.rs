//! Sums over mappings: by kind, by permissions. What one of them does not know, its sum does not know.

use super::{Allocator, Detail, Mapping, Resident};
use crate::event::permission;
use crate::statement::Kind;
use std::collections::BTreeMap;

/// What several mappings have together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sums {
    /// How many.
    pub mappings: u64,
    /// Bytes of address space.
    pub size: u64,
    /// In memory and in swap; `None` when that of one is unknown.
    pub resident: Option<Resident>,
    /// What only smaps says; `None` when that of one is unknown.
    pub detail: Option<Detail>,
    /// Huge pages of hugetlbfs, outside of RES: only mappings of that kind have any, so of all others it is known.
    pub hugetlb: Option<u64>,
}

impl Sums {
    /// Of nothing.
    pub const ZERO: Self = Self {
        mappings: 0,
        size: 0,
        resident: Some(Resident { rss: 0, anonymous: 0, swap: Some(0), huge: 0 }),
        detail: Some(Detail {
            pss: 0,
            private_clean: 0,
            private_dirty: 0,
            shared_clean: 0,
            shared_dirty: 0,
            swap_pss: 0,
            locked: 0,
            hugetlb: 0,
            ksm: 0,
            lazy_free: 0,
        }),
        hugetlb: Some(0),
    };

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            mappings: self.mappings.saturating_add(other.mappings),
            size: self.size.saturating_add(other.size),
            resident: self.resident.zip(other.resident).map(|(a, b)| Resident {
                rss: a.rss.saturating_add(b.rss),
                anonymous: a.anonymous.saturating_add(b.anonymous),
                swap: a.swap.zip(b.swap).map(|(a, b)| a.saturating_add(b)),
                huge: a.huge.saturating_add(b.huge),
            }),
            detail: self.detail.zip(other.detail).map(|(a, b)| Detail {
                pss: a.pss.saturating_add(b.pss),
                private_clean: a.private_clean.saturating_add(b.private_clean),
                private_dirty: a.private_dirty.saturating_add(b.private_dirty),
                shared_clean: a.shared_clean.saturating_add(b.shared_clean),
                shared_dirty: a.shared_dirty.saturating_add(b.shared_dirty),
                swap_pss: a.swap_pss.saturating_add(b.swap_pss),
                locked: a.locked.saturating_add(b.locked),
                hugetlb: a.hugetlb.saturating_add(b.hugetlb),
                ksm: a.ksm.saturating_add(b.ksm),
                lazy_free: a.lazy_free.saturating_add(b.lazy_free),
            }),
            hugetlb: self.hugetlb.zip(other.hugetlb).map(|(a, b)| a.saturating_add(b)),
        }
    }

    /// Names in the NDJSON contract of what rows have, in their order there.
    pub const AMOUNTS: [&'static str; 15] = [
        "size",
        "rss",
        "anonymous",
        "pss",
        "private_clean",
        "private_dirty",
        "shared_clean",
        "shared_dirty",
        "swap",
        "swap_pss",
        "locked",
        "huge",
        "hugetlb",
        "ksm",
        "lazy_free",
    ];

    /// Bytes, in the order of [`Self::AMOUNTS`]; `None` for what is unknown.
    #[must_use]
    pub fn amounts(&self) -> [Option<u64>; Self::AMOUNTS.len()] {
        let (r, d) = (self.resident, self.detail);
        [
            Some(self.size),
            r.map(|r| r.rss),
            r.map(|r| r.anonymous),
            d.map(|d| d.pss),
            d.map(|d| d.private_clean),
            d.map(|d| d.private_dirty),
            d.map(|d| d.shared_clean),
            d.map(|d| d.shared_dirty),
            self.swap(),
            d.map(|d| d.swap_pss),
            d.map(|d| d.locked),
            r.map(|r| r.huge),
            d.map(|d| d.hugetlb),
            d.map(|d| d.ksm),
            d.map(|d| d.lazy_free),
        ]
    }

    /// Resident.
    #[must_use]
    pub fn rss(&self) -> Option<u64> {
        self.resident.map(|r| r.rss)
    }

    /// Swapped out.
    #[must_use]
    pub fn swap(&self) -> Option<u64> {
        self.resident.and_then(|r| r.swap)
    }

    /// Proportional share.
    #[must_use]
    pub fn pss(&self) -> Option<u64> {
        self.detail.map(|d| d.pss)
    }

    /// Mapped by nobody else.
    #[must_use]
    pub fn private(&self) -> Option<u64> {
        self.detail.map(|d| d.private_clean.saturating_add(d.private_dirty))
    }

    /// Mapped more than once.
    #[must_use]
    pub fn shared(&self) -> Option<u64> {
        self.detail.map(|d| d.shared_clean.saturating_add(d.shared_dirty))
    }

    /// Written to, and not on disk so.
    #[must_use]
    pub fn dirty(&self) -> Option<u64> {
        self.detail.map(|d| d.private_dirty.saturating_add(d.shared_dirty))
    }

    /// Address space behind which there is neither memory nor swap: never touched, given back, or dropped.
    #[must_use]
    pub fn not_here(&self) -> Option<u64> {
        let resident = self.resident?;
        Some(self.size.saturating_sub(resident.rss).saturating_sub(resident.swap?).saturating_sub(self.hugetlb?))
    }
}

impl From<&Mapping> for Sums {
    fn from(mapping: &Mapping) -> Self {
        let hugetlb = match mapping.kind {
            Kind::Hugetlb => mapping.detail.map(|detail| detail.hugetlb),
            _ => Some(0),
        };
        Self { mappings: 1, size: mapping.size(), resident: mapping.resident, detail: mapping.detail, hugetlb }
    }
}

impl<'a> std::iter::Sum<&'a Mapping> for Sums {
    fn sum<I: Iterator<Item = &'a Mapping>>(mappings: I) -> Self {
        mappings.fold(Self::ZERO, |sum, mapping| sum.plus(mapping.into()))
    }
}

/// Which part of a program or a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Executable.
    Text,
    /// Neither executable nor writable.
    ReadOnly,
    /// Writable: data and bss.
    Data,
}

impl Part {
    /// Name in the NDJSON contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::ReadOnly => "rodata",
            Self::Data => "data",
        }
    }
}

/// What is told of as one in a distribution by kind: anonymous memory by who made it, code by its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group<'a> {
    /// The kind.
    pub kind: Kind,
    /// Part of a program or a library.
    pub part: Option<Part>,
    /// Whose anonymous memory.
    pub allocator: Option<Allocator>,
    /// The name that prctl gave to anonymous memory; empty for none, and where the allocator says it. Any bytes.
    pub name: &'a [u8],
}

impl<'a> Group<'a> {
    /// Where a mapping belongs.
    #[must_use]
    pub fn of(mapping: &'a Mapping) -> Self {
        let part = match mapping.kind {
            Kind::Program | Kind::Library if mapping.permissions & permission::EXECUTE != 0 => Some(Part::Text),
            Kind::Program | Kind::Library if mapping.permissions & permission::WRITE != 0 => Some(Part::Data),
            Kind::Program | Kind::Library => Some(Part::ReadOnly),
            _ => None,
        };
        let named = mapping.kind == Kind::Anon && mapping.allocator.is_none();
        let name = if named { mapping.name.as_slice() } else { &[] };
        Self { kind: mapping.kind, part, allocator: mapping.allocator, name }
    }
}

/// The distribution by kind.
#[must_use]
pub fn by_kind(mappings: &[Mapping]) -> BTreeMap<Group<'_>, Sums> {
    sums(mappings, Group::of)
}

/// The distribution by permissions.
#[must_use]
pub fn by_permissions(mappings: &[Mapping]) -> BTreeMap<u8, Sums> {
    sums(mappings, |mapping| mapping.permissions)
}

fn sums<'a, K: Ord>(mappings: &'a [Mapping], key: impl Fn(&'a Mapping) -> K) -> BTreeMap<K, Sums> {
    let mut sums = BTreeMap::new();
    for mapping in mappings {
        let sum = sums.entry(key(mapping)).or_insert(Sums::ZERO);
        *sum = sum.plus(mapping.into());
    }
    sums
}
