//! Amounts: pages inside, bytes outside. Times: nanoseconds.

use memtrace_common::{ANON, FILE, MEMBERS, SHMEM, SWAP};
use serde::{Deserialize, Serialize};
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::time::Duration;

/// Nanoseconds of it; what is too long for that, 584 years, is as many as there are.
#[must_use]
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Amounts per class, in pages of the target's page size; signed, because the ledger holds differences.
/// Sums wrap: a trace may hold any numbers, and the books close in wrapping arithmetic too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Amounts {
    /// Resident anonymous pages (`MM_ANONPAGES`, `RssAnon`).
    pub anon: i64,
    /// Resident file pages (`MM_FILEPAGES`, `RssFile`).
    pub file: i64,
    /// Resident shared-memory and tmpfs pages (`MM_SHMEMPAGES`, `RssShmem`).
    pub shmem: i64,
    /// Anonymous pages in swap (`MM_SWAPENTS`, `VmSwap`); not part of RES.
    pub swap: i64,
}

impl Amounts {
    /// Nothing.
    pub const ZERO: Self = Self { anon: 0, file: 0, shmem: 0, swap: 0 };

    /// From an array in the kernel's member order.
    #[must_use]
    pub const fn from_members(members: [i64; MEMBERS]) -> Self {
        Self { anon: members[ANON], file: members[FILE], shmem: members[SHMEM], swap: members[SWAP] }
    }

    /// RES: anon + file + shmem.
    #[must_use]
    pub const fn res(self) -> i64 {
        self.anon.wrapping_add(self.file).wrapping_add(self.shmem)
    }

    /// No class moved.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }

    /// Σ of the absolute values of the RES classes and swap: how much moved, whatever the direction.
    #[must_use]
    pub const fn gross(self) -> i64 {
        let resident = self.anon.saturating_abs().saturating_add(self.file.saturating_abs());
        resident.saturating_add(self.shmem.saturating_abs()).saturating_add(self.swap.saturating_abs())
    }
}

impl Add for Amounts {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            anon: self.anon.wrapping_add(other.anon),
            file: self.file.wrapping_add(other.file),
            shmem: self.shmem.wrapping_add(other.shmem),
            swap: self.swap.wrapping_add(other.swap),
        }
    }
}

impl Neg for Amounts {
    type Output = Self;
    fn neg(self) -> Self {
        Self {
            anon: self.anon.wrapping_neg(),
            file: self.file.wrapping_neg(),
            shmem: self.shmem.wrapping_neg(),
            swap: self.swap.wrapping_neg(),
        }
    }
}

impl Sub for Amounts {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl AddAssign for Amounts {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Amounts {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl std::iter::Sum for Amounts {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}
