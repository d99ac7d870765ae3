//! Values of the contract that JSON has no type for, written and read back: bytes, addresses, devices, permissions, and
//! whatever has a name.

use crate::event::permission;
use crate::snapshot::{Allocator, Source, device_numbers};
use crate::statement::Kind;
use crate::views::json::untrusted::{Address, Arguments, Hex, Text};
use crate::views::words::permissions;
use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;

/// The kernel's cap on what a reader keeps of a command line is a page.
const CMDLINE_LIMIT: usize = 4096;

/// Bytes of the target's as a string; `null` for none.
pub(super) struct Str<'a>(Cow<'a, [u8]>);

impl<'a> Str<'a> {
    /// With its twin, where there is one.
    pub(super) fn of(bytes: &'a [u8]) -> (Self, Option<Twin<'a>>) {
        (Self(bytes.into()), Twin::of(bytes))
    }

    /// What it was made of.
    pub(super) fn whole(self, twin: Option<Twin<'a>>) -> Vec<u8> {
        whole(self.0, twin)
    }
}

/// What a text and its twin were made of: where there is a twin, it says all.
pub(super) fn whole<'a>(text: Cow<'a, [u8]>, twin: Option<Twin<'a>>) -> Vec<u8> {
    twin.map_or(text, |twin| twin.0).into_owned()
}

impl Serialize for Str<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Text(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Str<'_> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<String>::deserialize(deserializer).map(|text| Self(Cow::Owned(text.unwrap_or_default().into_bytes())))
    }
}

/// The same in hexadecimal.
pub(super) struct Twin<'a>(Cow<'a, [u8]>);

impl<'a> Twin<'a> {
    /// `None` when the text says it all.
    pub(super) fn of(bytes: &'a [u8]) -> Option<Self> {
        Hex::twin(bytes).map(|hex| Self(hex.0.into()))
    }
}

impl Serialize for Twin<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Hex(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Twin<'_> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
            return Err(D::Error::custom("an odd number of hexadecimal digits"));
        };
        let bytes = pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect::<Option<Vec<u8>>>();
        bytes.map(|bytes| Self(Cow::Owned(bytes))).ok_or_else(|| D::Error::custom("not hexadecimal"))
    }
}

/// A command line: one string of bytes, each argument ended by NUL, as an array.
pub(super) struct Cmdline<'a>(pub(super) Cow<'a, [u8]>);

impl Serialize for Cmdline<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Arguments(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Cmdline<'_> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Join;
        impl<'de> Visitor<'de> for Join {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of arguments")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut arguments: A) -> Result<Vec<u8>, A::Error> {
                let mut joined = Vec::new();
                while joined.len() <= CMDLINE_LIMIT {
                    let Some(argument) = arguments.next_element::<String>()? else { return Ok(joined) };
                    joined.extend_from_slice(argument.as_bytes());
                    joined.push(0);
                }
                // Others are read and forgotten.
                while arguments.next_element::<IgnoredAny>()?.is_some() {}
                Ok(joined)
            }
        }
        deserializer.deserialize_seq(Join).map(|joined| Self(Cow::Owned(joined)))
    }
}

/// Something that has a name in the contract.
pub(super) trait Word: Copy + 'static {
    /// What it is called there itself.
    const FIELD: &'static str;
    /// All there are.
    const WORDS: &'static [Self];
    fn word(self) -> &'static str;
}

impl Word for Kind {
    const FIELD: &'static str = "kind";
    const WORDS: &'static [Self] = &Self::ALL;
    fn word(self) -> &'static str {
        self.name()
    }
}

impl Word for Allocator {
    const FIELD: &'static str = "allocator";
    const WORDS: &'static [Self] = &Self::ALL;
    fn word(self) -> &'static str {
        self.name()
    }
}

impl Word for Source {
    const FIELD: &'static str = "source";
    const WORDS: &'static [Self] = &Self::ALL;
    fn word(self) -> &'static str {
        self.name()
    }
}

/// By its name.
pub(super) struct Named<T>(pub(super) T);

impl<T: Word> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.word())
    }
}

impl<'de, T: Word> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let known = T::WORDS.iter().find(|item| item.word() == text);
        known
            .map(|&item| Self(item))
            .ok_or_else(|| D::Error::custom(format_args!("`{}` is unknown: {text:.40}", T::FIELD)))
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let address = text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
        address
            .map(Self)
            .ok_or_else(|| D::Error::custom("an address begins with 0x and has 16 hexadecimal digits at most"))
    }
}

/// `8:2`, as in `/sys/dev/block`.
pub(super) struct Device(pub(super) u64);

impl Serialize for Device {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (major, minor) = device_numbers(self.0);
        serializer.collect_str(&format_args!("{major}:{minor}"))
    }
}

impl<'de> Deserialize<'de> for Device {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parts = || {
            let (major, minor) = text.split_once(':')?;
            Some(u64::from(major.parse::<u32>().ok()?) << 32 | u64::from(minor.parse::<u32>().ok()?))
        };
        parts().map(Self).ok_or_else(|| D::Error::custom("`device` is not MAJOR:MINOR"))
    }
}

/// `rw-p`
pub(super) struct Permissions(pub(super) u8);

impl Serialize for Permissions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&permissions(self.0))
    }
}

impl<'de> Deserialize<'de> for Permissions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const ALL: u8 = permission::READ | permission::WRITE | permission::EXECUTE | permission::SHARED;
        let text = String::deserialize(deserializer)?;
        let bits = (0..=ALL).find(|&bits| bits & !ALL == 0 && permissions(bits) == text);
        bits.map(Self).ok_or_else(|| D::Error::custom("`permissions` are not like rw-p"))
    }
}
