//! Strings that the target chose, lossless in JSON: valid UTF-8 as it is, anything else as a lossy string
//! with a `*_hex` twin that holds the bytes.

use serde::ser::{Serialize, SerializeSeq, Serializer};
use std::fmt::Write as _;

/// Longest string in bytes; the kernel's own limits (PATH_MAX, TASK_COMM_LEN) are not above it.
const CAP: usize = 4096;

/// Untrusted bytes as a JSON string; `null` when empty.
#[derive(Clone, Copy)]
pub(in crate::views) struct Text<'a>(pub &'a [u8]);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_empty() {
            return serializer.serialize_none();
        }
        serializer.serialize_str(&String::from_utf8_lossy(capped(self.0)))
    }
}

/// The bytes in hexadecimal, where [`Text`] of them is not the whole truth.
#[derive(Clone, Copy)]
pub(in crate::views) struct Hex<'a>(pub &'a [u8]);

impl<'a> Hex<'a> {
    /// `None` when the string says it all.
    pub(in crate::views) fn twin(bytes: &'a [u8]) -> Option<Self> {
        (bytes.len() > CAP || std::str::from_utf8(bytes).is_err()).then_some(Self(bytes))
    }
}

impl Serialize for Hex<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = &self.0[..self.0.len().min(CAP)];
        let mut out = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            let _ = write!(out, "{byte:02x}");
        }
        serializer.serialize_str(&out)
    }
}

/// A command line as `/proc/PID/cmdline` has it, as an array of arguments. Several empty ones at its end are what a
/// program leaves that wrote a shorter title over its arguments, as PostgreSQL does: they are left out.
#[derive(Clone, Copy)]
pub(in crate::views) struct Arguments<'a>(pub &'a [u8]);

impl Serialize for Arguments<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = capped(self.0);
        let empty = bytes.iter().rev().take_while(|&&byte| byte == 0).count();
        let bytes = &bytes[..bytes.len() - if empty > 2 { empty } else { empty.min(1) }];
        let mut sequence = serializer.serialize_seq(None)?;
        if !self.0.is_empty() {
            for argument in bytes.split(|&b| b == 0) {
                sequence.serialize_element(&String::from_utf8_lossy(argument))?;
            }
        }
        sequence.end()
    }
}

/// At most [`CAP`] bytes, not ending inside a character that is whole in `bytes`.
fn capped(bytes: &[u8]) -> &[u8] {
    if bytes.len() <= CAP {
        return bytes;
    }
    let continuation = |i: usize| bytes[i] & 0xc0 == 0x80;
    let cut = (CAP - 3..=CAP).rev().find(|&i| !continuation(i)).unwrap_or(CAP);
    &bytes[..cut]
}

/// An address: JSON numbers lose precision above 2^53, so addresses are strings.
#[derive(Clone, Copy)]
pub(in crate::views) struct Address(pub u64);

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}
