//! The kernel's own type information: where a field lies in a struct, how many arguments a tracepoint has.
//!
//! Reads `/sys/kernel/btf/vmlinux` once. Only what the probes need is understood.
//! Format: <https://docs.kernel.org/bpf/btf.html>.

use std::collections::HashMap;
use thiserror::Error;

/// Where the kernel shows its types.
pub const PATH: &str = "/sys/kernel/btf/vmlinux";

/// Why the types could not be used.
#[derive(Debug, Error)]
pub enum BtfError {
    /// The file could not be read.
    #[error("failed to read {PATH}")]
    Read(#[source] std::io::Error),
    /// It is not BTF of this version.
    #[error("{PATH} is not readable BTF: {0}")]
    Malformed(&'static str),
    /// A struct is missing.
    #[error("this kernel has no type `{0}`")]
    NoType(String),
    /// A field is missing.
    #[error("this kernel's `{0}` has no field `{1}`")]
    NoField(String, String),
    /// A tracepoint has another shape than the probes expect.
    #[error("this kernel's tracepoint `{name}` has {found} arguments where {wanted} are expected")]
    Shape {
        /// The tracepoint.
        name: &'static str,
        /// Arguments it has.
        found: usize,
        /// Arguments expected.
        wanted: usize,
    },
}

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNC_PROTO: u32 = 13;

/// The kernel's types.
pub struct Types {
    data: Vec<u8>,
    strings: usize,
    /// Position of each type, by id; id 0 is void.
    positions: Vec<u32>,
    structs: HashMap<Vec<u8>, u32>,
    typedefs: HashMap<Vec<u8>, u32>,
}

impl Types {
    /// Reads the running kernel's types.
    ///
    /// # Errors
    /// The file is missing (no `CONFIG_DEBUG_INFO_BTF`), unreadable, or not understood.
    pub fn read() -> Result<Self, BtfError> {
        Self::parse(std::fs::read(PATH).map_err(BtfError::Read)?)
    }

    fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let short = BtfError::Malformed("it ends early");
        let word = |at: usize| data.get(at..at + 4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
        if data.get(..2) != Some(&0xeb9f_u16.to_ne_bytes()) {
            return Err(BtfError::Malformed("wrong magic"));
        }
        let header = |at| word(at).map(|w| w as usize).ok_or(BtfError::Malformed("it ends early"));
        let (header_len, type_off, type_len, str_off) = (header(4)?, header(8)?, header(12)?, header(16)?);
        let begin = header_len + type_off;
        let end = begin.checked_add(type_len).filter(|end| *end <= data.len()).ok_or(short)?;
        let strings = header_len + str_off;
        let mut types =
            Self { positions: vec![0], structs: HashMap::new(), typedefs: HashMap::new(), strings, data: Vec::new() };
        let mut at = begin;
        while at + 12 <= end {
            let (Some(name), Some(info)) = (word(at), word(at + 4)) else { break };
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let id = u32::try_from(types.positions.len()).map_err(|_| BtfError::Malformed("too many types"))?;
            types.positions.push(u32::try_from(at).map_err(|_| BtfError::Malformed("too large"))?);
            if name != 0 && (kind == KIND_STRUCT || kind == KIND_UNION || kind == KIND_TYPEDEF) {
                let start = strings + name as usize;
                let bytes = data.get(start..).unwrap_or_default();
                let bytes = bytes.split(|b| *b == 0).next().unwrap_or_default().to_vec();
                let table = if kind == KIND_TYPEDEF { &mut types.typedefs } else { &mut types.structs };
                table.entry(bytes).or_insert(id);
            }
            at += 12
                + match kind {
                    1 | 14 | 17 => 4,
                    3 => 12,
                    KIND_STRUCT | KIND_UNION | 15 | 19 => 12 * count,
                    6 | KIND_FUNC_PROTO => 8 * count,
                    2 | 7..=12 | 16 | 18 => 0,
                    _ => return Err(BtfError::Malformed("a kind of type that is not known here")),
                };
        }
        types.data = data;
        Ok(types)
    }

    fn word(&self, at: usize) -> u32 {
        self.data.get(at..at + 4).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn name(&self, offset: u32) -> &[u8] {
        let bytes = self.data.get(self.strings + offset as usize..).unwrap_or_default();
        bytes.split(|b| *b == 0).next().unwrap_or_default()
    }

    /// Position of a type, behind typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> usize {
        for _ in 0..32 {
            let at = self.positions.get(id as usize).copied().unwrap_or(0) as usize;
            let kind = self.word(at + 4) >> 24 & 0x1f;
            if matches!(kind, 8..=11 | 18) {
                id = self.word(at + 8);
            } else {
                return at;
            }
        }
        0
    }

    fn find(&self, name: &str) -> Result<usize, BtfError> {
        if let Some(id) = self.structs.get(name.as_bytes()) {
            return Ok(self.positions[*id as usize] as usize);
        }
        match self.typedefs.get(name.as_bytes()) {
            Some(id) => Ok(self.resolve(*id)),
            None => Err(BtfError::NoType(name.to_owned())),
        }
    }

    /// Size of a struct in bytes.
    ///
    /// # Errors
    /// There is no such struct.
    pub fn size(&self, name: &str) -> Result<u32, BtfError> {
        Ok(self.word(self.find(name)? + 8))
    }

    /// Offset in bytes of a field, given by a dotted path; anonymous structs and unions on the way are looked into.
    ///
    /// # Errors
    /// There is no such struct or field.
    pub fn offset(&self, name: &str, path: &str) -> Result<u32, BtfError> {
        let mut at = self.find(name)?;
        let mut offset = 0;
        for field in path.split('.') {
            let (bits, id) = self
                .member(at, field.as_bytes(), 0)
                .ok_or_else(|| BtfError::NoField(name.to_owned(), path.to_owned()))?;
            offset += bits / 8;
            at = self.resolve(id);
        }
        Ok(offset)
    }

    fn member(&self, at: usize, field: &[u8], depth: u32) -> Option<(u32, u32)> {
        let info = self.word(at + 4);
        let (kind, count, has_bitfields) = (info >> 24 & 0x1f, info & 0xffff, info >> 31 != 0);
        if depth > 8 || (kind != KIND_STRUCT && kind != KIND_UNION) {
            return None;
        }
        for i in 0..count as usize {
            let member = at + 12 + 12 * i;
            let (name, id, raw) = (self.word(member), self.word(member + 4), self.word(member + 8));
            let bits = if has_bitfields { raw & 0xff_ffff } else { raw };
            if name != 0 && self.name(name) == field {
                return Some((bits, id));
            }
            if name == 0
                && let Some((inner, id)) = self.member(self.resolve(id), field, depth + 1)
            {
                return Some((bits + inner, id));
            }
        }
        None
    }

    /// Number of arguments of a tracepoint, its context pointer not counted; `None` when this kernel has no such tracepoint.
    #[must_use]
    pub fn tracepoint_arguments(&self, name: &str) -> Option<usize> {
        let id = self.typedefs.get(format!("btf_trace_{name}").as_bytes())?;
        let pointer = self.resolve(*id);
        let proto = self.resolve(self.word(pointer + 8));
        let info = self.word(proto + 4);
        (info >> 24 & 0x1f == KIND_FUNC_PROTO).then(|| (info & 0xffff) as usize - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_is_understood() {
        let Ok(types) = Types::read() else {
            println!("skipped: {PATH} cannot be read here");
            return;
        };
        assert_eq!(types.offset("list_head", "prev").unwrap(), 8);
        assert_eq!(types.offset("pt_regs", "ip").unwrap(), 128);
        assert_eq!(types.tracepoint_arguments("page_fault_user"), Some(3));
        assert!(matches!(types.offset("task_struct", "no_such_field"), Err(BtfError::NoField(..))));
        assert!(matches!(types.offset("no_such_struct", "x"), Err(BtfError::NoType(_))));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(matches!(Types::parse(b"hello, I am not BTF".to_vec()), Err(BtfError::Malformed(_))));
        assert!(Types::parse(vec![0x9f, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0]).is_err());
    }
}
