//! What the pages of a mapping may be, and how that looks: the live screen and the pictures of a snapshot agree.

use crate::views::human::size;
use std::ops::{AddAssign, Index, IndexMut};

/// What a page of a mapping may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// In memory, and nobody else maps it.
    Private,
    /// In memory, mapped by others, too.
    Shared,
    /// In swap.
    Swapped,
    /// Not read: in memory, and whether anyone else maps it is not known, or not even that.
    Unknown,
    /// Not in memory.
    Untouched,
}

impl Part {
    pub(crate) const ALL: [Self; 5] = [Self::Private, Self::Shared, Self::Swapped, Self::Unknown, Self::Untouched];

    /// A cell full of it, told apart without colours.
    pub(crate) const fn glyph(self) -> char {
        match self {
            Self::Private => '█',
            Self::Shared => '▒',
            Self::Swapped => 's',
            Self::Untouched => '·',
            Self::Unknown => '?',
        }
    }

    /// Its colour in a terminal's palette of sixteen; `None`: that of faint text.
    pub(crate) const fn color(self) -> Option<u8> {
        match self {
            Self::Private => Some(1),
            Self::Shared => Some(4),
            Self::Swapped => Some(3),
            Self::Untouched | Self::Unknown => None,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Shared => "shared",
            Self::Swapped => "swapped",
            Self::Untouched => "untouched",
            Self::Unknown => "unknown",
        }
    }
}

/// How much there is of each part, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts([u64; Part::ALL.len()]);

impl Parts {
    pub(crate) fn only(part: Part, bytes: u64) -> Self {
        let mut parts = Self::default();
        parts[part] = bytes;
        parts
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, &bytes| sum.saturating_add(bytes))
    }

    /// The first so many of `whole` bytes, if all parts lie evenly in them.
    pub(crate) fn first(&self, bytes: u64, whole: u64) -> Self {
        Self(self.0.map(|amount| (u128::from(amount) * u128::from(bytes) / u128::from(whole.max(1))) as u64))
    }

    pub(crate) fn without(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].saturating_sub(other.0[i])))
    }

    /// What is worth telling, in words. Part of what is unknown may be private, or shared: then there is no 0.
    pub(crate) fn told(&self) -> impl Iterator<Item = (Part, String)> + use<> {
        let unknown = self[Part::Unknown] > 0;
        self.iter().filter(|&(part, bytes)| part != Part::Unknown || bytes > 0).map(move |(part, bytes)| match bytes {
            0 if unknown && part != Part::Untouched => (part, format!("{} ?", part.name())),
            _ => (part, format!("{} {}", part.name(), size(bytes))),
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Part, u64)> + use<> {
        Part::ALL.into_iter().zip(self.0)
    }
}

impl Index<Part> for Parts {
    type Output = u64;

    fn index(&self, part: Part) -> &u64 {
        &self.0[part as usize]
    }
}

impl IndexMut<Part> for Parts {
    fn index_mut(&mut self, part: Part) -> &mut u64 {
        &mut self.0[part as usize]
    }
}

impl AddAssign for Parts {
    fn add_assign(&mut self, other: Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = mine.saturating_add(theirs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_the_place_in_the_list() {
        for (at, part) in Part::ALL.into_iter().enumerate() {
            assert_eq!(part as usize, at);
            assert_eq!(Parts::only(part, 7).iter().filter(|&(_, bytes)| bytes > 0).collect::<Vec<_>>(), [(part, 7)]);
        }
    }
}
