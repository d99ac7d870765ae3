//! The objects that several lines share: amounts, faults, mappings, code, losses, cost.

use super::untrusted::{Address, Hex, Text};
use crate::event::{Latency, Lost, NameFailures, Naming, Own, StackId, Symbol};
use crate::statement::{Balance, Faults, Frame, MappingRef, Stack, StackSums};
use crate::units::Amounts;
use crate::views::Scale;
use crate::views::fold::fold;
use crate::views::words::{self, signal_name, syscall_label};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use std::collections::BTreeMap;

/// Signed bytes per class.
#[derive(Serialize)]
pub(super) struct Delta {
    anon: i64,
    file: i64,
    shmem: i64,
    swap: i64,
}

impl Delta {
    pub(super) const fn of(pages: Amounts, scale: Scale) -> Self {
        let Amounts { anon, file, shmem, swap } = scale.amounts(pages);
        Self { anon, file, shmem, swap }
    }
}

/// A balance in bytes, with its RES and, where known, its VIRT.
#[derive(Serialize)]
pub(super) struct Level {
    #[serde(flatten)]
    classes: Delta,
    res: i64,
    virt: Option<i64>,
}

impl Level {
    pub(super) fn of(balance: Balance, scale: Scale) -> Self {
        Self {
            classes: Delta::of(balance.amounts, scale),
            res: scale.bytes(balance.amounts.res()),
            virt: balance.virt.map(|pages| scale.bytes(i64::try_from(pages).unwrap_or(i64::MAX))),
        }
    }
}

#[derive(Serialize)]
pub(super) struct FaultFields {
    minor: i64,
    major: i64,
}

impl From<Faults> for FaultFields {
    fn from(faults: Faults) -> Self {
        Self { minor: faults.minor, major: faults.major }
    }
}

#[derive(Serialize)]
pub(super) struct LatencyFields {
    sum: u64,
    max: u64,
    p50: Option<u64>,
    p99: Option<u64>,
    samples: u64,
}

impl LatencyFields {
    pub(super) fn of(latency: &Latency) -> Option<Self> {
        (latency.samples > 0).then(|| Self {
            sum: latency.sum_ns,
            max: latency.max_ns,
            p50: latency.quantile_ns(500),
            p99: latency.quantile_ns(990),
            samples: latency.samples,
        })
    }
}

pub(super) struct LostFields(pub Lost);

impl Serialize for LostFields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("total", &self.0.total())?;
        for (name, count, _) in words::losses(self.0) {
            map.serialize_entry(name, &count)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
pub(super) struct MappingFields<'a> {
    id: u64,
    kind: &'static str,
    name: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_hex: Option<Hex<'a>>,
    start: Address,
    end: Address,
    permissions: String,
    born_ns: Option<u64>,
    born_syscall: Option<String>,
    born_tid: Option<u32>,
    born_stack_id: Option<StackId>,
}

impl<'a> From<&'a MappingRef> for MappingFields<'a> {
    fn from(mapping: &'a MappingRef) -> Self {
        let birth = mapping.birth.as_ref();
        Self {
            id: mapping.id,
            kind: mapping.kind.name(),
            name: Text(&mapping.name),
            name_hex: Hex::twin(&mapping.name),
            start: Address(mapping.start),
            end: Address(mapping.end),
            permissions: words::permissions(mapping.permissions),
            born_ns: birth.map(|b| b.ts_ns),
            born_syscall: birth.map(|b| syscall_label(b.nr)),
            born_tid: birth.map(|b| b.tid),
            born_stack_id: birth.and_then(|b| b.stack.as_ref()).map(|stack| stack.id),
        }
    }
}

#[derive(Serialize)]
pub(super) struct FrameFields<'a> {
    ip: Address,
    /// Every function of it stands between the memory and the code that wanted it.
    plumbing: bool,
    module: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    module_hex: Option<Hex<'a>>,
    offset: Option<Address>,
    #[serde(skip_serializing_if = "Option::is_none")]
    build_id: Option<Hex<'a>>,
    /// The innermost inlined function first.
    symbols: Vec<SymbolFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    symbol_offset: Option<Address>,
}

#[derive(Serialize)]
struct SymbolFields<'a> {
    name: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_hex: Option<Hex<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_hex: Option<Hex<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

impl<'a> From<&'a Symbol> for SymbolFields<'a> {
    fn from(symbol: &'a Symbol) -> Self {
        Self {
            name: Text(&symbol.name),
            name_hex: Hex::twin(&symbol.name),
            file: (!symbol.file.is_empty()).then_some(Text(&symbol.file)),
            file_hex: Hex::twin(&symbol.file),
            line: (symbol.line != 0).then_some(symbol.line),
        }
    }
}

impl<'a> FrameFields<'a> {
    /// All of a stack.
    pub(super) fn of_stack(stack: &'a Stack) -> Vec<Self> {
        let folded = fold(stack);
        stack.frames.iter().enumerate().map(|(number, frame)| Self::of(frame, folded.is_plumbing(number))).collect()
    }

    pub(super) fn of(code: &'a Frame, plumbing: bool) -> Self {
        Self {
            ip: Address(code.ip),
            plumbing,
            module: Text(&code.module),
            module_hex: Hex::twin(&code.module),
            offset: (!code.module.is_empty()).then_some(Address(code.offset)),
            build_id: (!code.build_id.is_empty()).then_some(Hex(&code.build_id)),
            symbols: code.symbols.iter().map(Into::into).collect(),
            symbol_offset: (!code.symbols.is_empty()).then_some(Address(code.symbol_offset)),
        }
    }
}

/// How good the stacks were, in bytes.
#[derive(Serialize)]
pub(super) struct StacksFields {
    grown_bytes: i64,
    complete_bytes: i64,
    without_bytes: i64,
    failures: BTreeMap<&'static str, u64>,
    failed_bytes: BTreeMap<&'static str, i64>,
    copies: u64,
    copied_bytes: u64,
    unwind_ns: u64,
}

impl StacksFields {
    pub(super) fn of(sums: &StackSums, own: Own, scale: Scale) -> Self {
        let bytes = |pages: u64| scale.bytes(i64::try_from(pages).unwrap_or(i64::MAX));
        Self {
            grown_bytes: bytes(sums.grown),
            complete_bytes: bytes(sums.complete),
            without_bytes: bytes(sums.without),
            failures: sums.failures.iter().map(|(end, &(stacks, _))| (end.name(), stacks)).collect(),
            failed_bytes: sums.failures.iter().map(|(end, &(_, pages))| (end.name(), bytes(pages))).collect(),
            copies: own.copies,
            copied_bytes: own.copied_bytes,
            unwind_ns: own.unwind_ns,
        }
    }
}

#[derive(Serialize)]
struct UnnamedFields<'a> {
    module: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    module_hex: Option<Hex<'a>>,
    places: u64,
    advice: &'a str,
}

#[derive(Serialize)]
pub(super) struct NamesFields<'a> {
    unnamed: Vec<UnnamedFields<'a>>,
    failures: NameFailures,
}

impl<'a> NamesFields<'a> {
    pub(super) fn of(naming: &'a Naming) -> Self {
        let unnamed = naming.unnamed.iter().map(|unnamed| UnnamedFields {
            module: Text(&unnamed.module),
            module_hex: Hex::twin(&unnamed.module),
            places: unnamed.places,
            advice: &unnamed.advice,
        });
        Self { unnamed: unnamed.collect(), failures: naming.failures }
    }
}

/// How a process ended.
#[derive(Serialize)]
pub(super) struct ExitFields {
    status: Option<u32>,
    signal: Option<String>,
}

impl From<u32> for ExitFields {
    fn from(code: u32) -> Self {
        match code & 0x7f {
            0 => Self { status: Some(code >> 8 & 0xff), signal: None },
            signal => Self { status: None, signal: Some(signal_name(signal)) },
        }
    }
}

#[derive(Serialize)]
pub(super) struct OwnFields {
    cpu_ns: u64,
    bpf_ns: Option<u64>,
    bpf_runs: Option<u64>,
    bpf_ns_per_fault: Option<u64>,
    max_rss: u64,
}

impl OwnFields {
    pub(super) fn of(own: Own, faults: Faults) -> Self {
        Self {
            cpu_ns: own.cpu_ns,
            bpf_ns: own.bpf_ns,
            bpf_runs: own.bpf_runs,
            bpf_ns_per_fault: words::bpf_ns_per_fault(own, faults),
            max_rss: own.max_rss,
        }
    }
}
