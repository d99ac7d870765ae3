//! Who did it: the code paths of an entry with their shares, whole stacks where more is asked for, and the functions
//! that made most of a session's growth.

use super::closing::bytes;
use super::{Look, Session};
use crate::event::{NameFailures, Naming, StackEnd, StackId};
use crate::statement::{ClosingStatement, Entry, MappingRef, Stack, StackSums, Sum};
use crate::views::escape::{basename, escape};
use crate::views::fold::{Role, fold, short};
use crate::views::human::{count, counted, percent, signed_size, size};
use crate::views::words::stack_end_phrase;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Functions in a line.
const NAMES: usize = 4;
/// Paths of an entry that are told.
const SHOWN: usize = 3;
/// Functions of a session that are listed; the rest is summed.
const FUNCTIONS: usize = 5;
/// Modules without names that are listed.
const MODULES: usize = 3;
/// Column at which what follows a label begins at the end of a session.
const INDENT: usize = 13;
/// Functions of a whole stack that are listed.
const LISTED: usize = 128;

/// How much each stack of an entry did.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths(BTreeMap<Option<StackId>, Path>);

#[derive(Clone, Debug)]
struct Path {
    stack: Option<Arc<Stack>>,
    weight: Weight,
}

/// Gross pages, then faults: some faults bring no page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Weight {
    pages: u64,
    faults: i64,
}

impl Weight {
    const fn add(&mut self, other: Self) {
        self.pages = self.pages.saturating_add(other.pages);
        self.faults = self.faults.saturating_add(other.faults);
    }
}

impl Paths {
    pub(super) fn add(&mut self, entry: &Entry) {
        let weight = Weight { pages: entry.delta.gross().unsigned_abs(), faults: entry.faults.all() };
        let id = entry.stack.as_ref().map(|stack| stack.id);
        self.0
            .entry(id)
            .and_modify(|path| path.weight.add(weight))
            .or_insert_with(|| Path { stack: entry.stack.clone(), weight });
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The stack that did most.
    pub(super) fn heaviest(&self) -> Option<&Arc<Stack>> {
        // Of equals the first, so that a replay prints the same.
        let heaviest = self.0.values().min_by_key(|path| Reverse(path.weight))?;
        heaviest.stack.as_ref()
    }

    /// `ExecHashTableInsert ← … ← PostgresMain`, where paths differ with the share of each; stacks that read alike are one.
    pub(super) fn told(&self) -> Vec<String> {
        let mut lines: BTreeMap<String, Weight> = BTreeMap::new();
        let mut whole = Weight::default();
        for path in self.0.values() {
            let line = path.stack.as_deref().map_or_else(String::new, line);
            lines.entry(line).or_default().add(path.weight);
            whole.add(path.weight);
        }
        let mut lines: Vec<(String, Weight)> = lines.into_iter().collect();
        lines.sort_by_key(|(_, weight)| Reverse(*weight));
        if let [(line, _)] = lines.as_slice() {
            return if line.is_empty() { Vec::new() } else { vec![format!("at {line}")] };
        }
        let share = |weight: Weight| match whole.pages {
            0 => percent(weight.faults.max(0).unsigned_abs(), whole.faults.max(0).unsigned_abs()),
            pages => percent(weight.pages, pages),
        };
        let told = |(line, weight): (String, Weight)| {
            let line = if line.is_empty() { "code unknown".to_owned() } else { format!("at {line}") };
            share(weight).map_or_else(|| line.clone(), |share| format!("{share} {line}"))
        };
        lines.into_iter().take(SHOWN).map(told).collect()
    }
}

fn line(stack: &Stack) -> String {
    let line = short(stack, NAMES);
    match stack.end {
        StackEnd::Root | StackEnd::Off => line,
        end => format!("{line} ({})", stack_end_phrase(end)),
    }
}

/// The function that mapped it, where that was seen.
pub(super) fn mapper(mapping: &MappingRef) -> Option<String> {
    let stack = mapping.birth.as_ref()?.stack.as_ref()?;
    fold(stack).first().map(|call| call.name())
}

impl Session {
    /// The whole stack, one function a line; plumbing is fainter.
    pub(super) fn whole_stack(&mut self, stack: &Stack, indent: usize) {
        let indent = " ".repeat(indent);
        let folded = fold(stack);
        for (n, call) in folded.calls.iter().enumerate().take(LISTED) {
            let frame = call.frame;
            let mut text = format!("{indent}#{n:<3}{}", call.name());
            // The function that holds the code comes last; the others are inlined into it.
            let holds = frame.symbols.last().zip(call.symbol).is_none_or(|(last, own)| std::ptr::eq(last, own));
            match call.symbol {
                Some(_) if holds => {
                    text.push_str(&format!("+{:#x}  {}", frame.symbol_offset, escape(basename(&frame.module), 48)));
                }
                Some(_) => text.push_str("  (inlined)"),
                None => {}
            }
            if let Some(symbol) = call.symbol.filter(|symbol| !symbol.file.is_empty()) {
                text.push_str(&format!("  {}", escape(basename(&symbol.file), 48)));
                if symbol.line > 0 {
                    text.push_str(&format!(":{}", symbol.line));
                }
            }
            let look = if call.role == Role::Plumbing { Look::Faint } else { Look::Plain };
            self.sheet.line(&[(look, &text)]);
        }
        if let Some(more) = folded.calls.len().checked_sub(LISTED).filter(|&more| more > 0) {
            self.sheet.line(&[(Look::Faint, &format!("{indent}… {} more", count(more as u64)))]);
        }
        if stack.end != StackEnd::Root {
            self.sheet.line(&[(Look::Faint, &format!("{indent}… ({})", stack_end_phrase(stack.end)))]);
        }
    }

    /// The functions that made most of RES grow, each with its largest path.
    pub(super) fn code(&mut self, c: &ClosingStatement) {
        let scale = self.scale;
        let mut functions: BTreeMap<String, Function<'_>> = BTreeMap::new();
        let mut rest = Sum::default();
        for code in &c.by_code {
            let Some(stack) = &code.stack else {
                rest.grown = rest.grown.saturating_add(code.sum.grown);
                continue;
            };
            let name = fold(stack).first().map_or_else(String::new, |call| call.name());
            let function = functions.entry(name).or_insert(Function { stack, stacks: 0, sum: Sum::default() });
            function.stacks += 1;
            function.sum.grown = function.sum.grown.saturating_add(code.sum.grown);
            function.sum.shrunk = function.sum.shrunk.saturating_add(code.sum.shrunk);
            function.sum.faults += code.sum.faults;
        }
        let mut functions: Vec<Function<'_>> = functions.into_values().filter(|f| f.sum.grown > 0).collect();
        if functions.is_empty() {
            return;
        }
        functions.sort_by_key(|function| Reverse(function.sum.grown));
        let whole = functions.iter().fold(rest.grown, |whole, function| whole.saturating_add(function.sum.grown));
        self.sheet.line(&[(Look::Strong, "by code"), (Look::Faint, "      what grew, given back or not")]);
        for function in functions.iter().take(FUNCTIONS) {
            let mut text = short(function.stack, 3);
            if let Some(share) = percent(function.sum.grown, whole) {
                text.push_str(&format!(" · {share}"));
            }
            if function.stacks > 1 {
                text.push_str(&format!(" · {} stacks", count(function.stacks)));
            }
            if function.sum.faults.shown() > 0 {
                text.push_str(&format!(" · {}", counted(function.sum.faults.shown(), "fault", "faults")));
            }
            let label = format!("{:>13}  ", signed_size(bytes(function.sum.grown, scale)));
            self.sheet.wrapped((Look::Growth, &label), 15, (Look::Plain, &text));
        }
        let others = functions.get(FUNCTIONS..).unwrap_or_default();
        let grown = others.iter().fold(rest.grown, |grown, function| grown.saturating_add(function.sum.grown));
        if grown > 0 {
            let text = if others.is_empty() {
                "without code: the kernel's own threads, fork, exec".to_owned()
            } else {
                format!("and {} more, together", counted(others.len() as u64, "function", "functions"))
            };
            let label = format!("{:>13}  ", signed_size(bytes(grown, scale)));
            self.sheet.wrapped((Look::Plain, &label), 15, (Look::Faint, &text));
        }
    }

    /// Where names were missing, and what would bring them.
    pub(super) fn names(&mut self, naming: &Naming) {
        let NameFailures { timeouts, crashes, unreadable, refused, unstarted } = naming.failures;
        let failed: Vec<String> = [
            ("took too long to read", timeouts),
            ("ended their reader", crashes),
            ("places unreadable", unreadable),
            ("refused", refused),
            ("without a reader", unstarted),
        ]
        .into_iter()
        .filter(|&(_, n)| n > 0)
        .map(|(what, n)| format!("{what} {}", count(n)))
        .collect();
        let mut lines: Vec<String> = naming
            .unnamed
            .iter()
            .take(MODULES)
            .map(|unnamed| {
                let module = escape(basename(&unnamed.module), 48);
                let places = counted(unnamed.places, "place", "places");
                format!("{places} in {module} without one: {}", escape(unnamed.advice.as_bytes(), 200))
            })
            .collect();
        if naming.unnamed.len() > MODULES {
            lines.push(format!("and {} modules more", count((naming.unnamed.len() - MODULES) as u64)));
        }
        if !failed.is_empty() {
            lines.push(format!("symbols and debugging information: {}", failed.join(", ")));
        }
        for (i, line) in lines.iter().enumerate() {
            let label = if i == 0 { "names        " } else { "             " };
            self.sheet.wrapped((Look::Plain, label), INDENT, (Look::Plain, line));
        }
    }

    /// `stacks       99.9 % of what grew has a complete one; 12.0 MiB do not: deep 12, jit 3`
    pub(super) fn stacks(&mut self, sums: &StackSums) {
        let Some(complete) = percent(sums.complete, sums.grown).filter(|_| !self.without_probes()) else { return };
        let scale = self.scale;
        if sums.complete == 0 && sums.failures.keys().all(|&end| end == StackEnd::Off) {
            if !sums.failures.is_empty() {
                self.sheet
                    .line(&[(Look::Plain, "stacks       not copied (--no-stacks): of the code one frame is known")]);
            }
            return;
        }
        let mut text = format!("{complete} of what grew has a complete one");
        let failures: Vec<String> =
            sums.failures.iter().map(|(end, &(stacks, _))| format!("{} {}", end.name(), count(stacks))).collect();
        if !failures.is_empty() {
            let grown = sums.failures.values().fold(0_u64, |sum, &(_, pages)| sum.saturating_add(pages));
            text.push_str(&format!("; {} do not: {}", size(bytes(grown, scale).unsigned_abs()), failures.join(", ")));
        }
        if sums.without > 0 {
            let without = size(bytes(sums.without, scale).unsigned_abs());
            text.push_str(&format!("; {without} without code (kernel threads, fork, exec)"));
        }
        self.sheet.wrapped((Look::Plain, "stacks       "), INDENT, (Look::Plain, &text));
    }
}

/// All paths that have the same first function to tell.
struct Function<'a> {
    /// The largest one.
    stack: &'a Stack,
    stacks: u64,
    sum: Sum,
}
