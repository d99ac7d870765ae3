//! Which frames of a stack are plumbing, which one is the first that says something, and the stack in one line.
//!
//! The rule, tested below: every inlined function is a call of its own. A call is **plumbing** when its name is in
//! [`tables`] (allocators, copying, memory contexts, containers, system-call stubs), when it lies in an allocator's
//! library, or when it has no name and either lies in the C or C++ run-time library with nothing but plumbing below it,
//! or was called by plumbing of its own module that calls nothing else (stripped programs: `palloc` is exported, what it
//! calls is not). An **entry** is how a thread begins (`_start`, `clone3`); the **trunk** is what every stack of a program shares (`main`).
//! The rest is **work**. The first call that is work or trunk is the one to name; where there is none, the outermost
//! plumbing; where there is none of that, the innermost entry. So every stack with a frame has a first one.
//!
//! Refuses nothing: names are any bytes, of any length, and come out escaped and capped.

mod tables;
#[cfg(test)]
mod tests;

use super::escape::{basename, escape};
use crate::event::{StackEnd, Symbol};
use crate::statement::{Frame, Stack};
use crate::stuck::Function;
use std::borrow::Cow;
use tables::{ALLOCATORS, ENTRY, Family, PLUMBING, RUNTIMES, TRUNK};

/// Longest name in a line, characters.
const NAME: usize = 64;
/// Bytes of a name that are looked at.
const LOOKED_AT: usize = 1024;

/// What a call is to the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What the program does.
    Work,
    /// What every stack of the program has: `main`.
    Trunk,
    /// Between the memory and the code that wanted it.
    Plumbing,
    /// How the thread began.
    Entry,
}

/// One function of a stack, inlined ones included.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Where the code is.
    pub frame: &'a Frame,
    /// Which frame of the stack, from 0.
    pub number: usize,
    /// Its name, where it has one.
    pub symbol: Option<&'a Symbol>,
    /// What it is.
    pub role: Role,
}

impl Call<'_> {
    /// What to call it; see [`frame_name`].
    #[must_use]
    pub fn name(&self) -> String {
        match self.symbol {
            Some(symbol) => symbol_name(&symbol.name),
            None => place_name(self.frame),
        }
    }
}

/// A stack, each call with its role.
#[derive(Clone, Debug)]
pub struct Folded<'a> {
    /// Innermost first; as many as the stack's frames have names, one for each that has none.
    pub calls: Vec<Call<'a>>,
    /// Index of the first call that says something; `None` only where there are no frames.
    pub first: Option<usize>,
    end: StackEnd,
}

/// Gives each call of a stack its role.
#[must_use]
pub fn fold(stack: &Stack) -> Folded<'_> {
    let mut calls: Vec<Call<'_>> = Vec::with_capacity(stack.frames.len());
    for (number, frame) in stack.frames.iter().enumerate() {
        let call = |symbol| Call { frame, number, symbol, role: Role::Work };
        calls.extend(frame.symbols.iter().map(|symbol| call(Some(symbol).filter(|symbol| !symbol.name.is_empty()))));
        if frame.symbols.is_empty() {
            calls.push(call(None));
        }
    }
    // From the root: what plumbing calls.
    let mut called_by: Option<&Frame> = None;
    for call in calls.iter_mut().rev() {
        let confined = match call.symbol {
            Some(symbol) => {
                let named = named(call.frame, &symbol.name);
                call.role = named.role;
                named.confined
            }
            None => {
                let confined = called_by.is_some_and(|caller| caller.module == call.frame.module)
                    || lies_in(call.frame, ALLOCATORS);
                call.role = if confined { Role::Plumbing } else { Role::Work };
                confined
            }
        };
        called_by = confined.then_some(call.frame);
    }
    // From the leaf: what a run-time library does for plumbing.
    for call in &mut calls {
        if call.symbol.is_none() && lies_in(call.frame, RUNTIMES) {
            call.role = Role::Plumbing;
        }
        if call.role != Role::Plumbing {
            break;
        }
    }
    let is = |call: &Call<'_>, roles: &[Role]| roles.contains(&call.role);
    let first = calls
        .iter()
        .position(|call| is(call, &[Role::Work, Role::Trunk]))
        .or_else(|| calls.iter().rposition(|call| is(call, &[Role::Plumbing])))
        .or(if calls.is_empty() { None } else { Some(0) });
    Folded { calls, first, end: stack.end }
}

impl<'a> Folded<'a> {
    /// The call that says what the memory is for.
    #[must_use]
    pub fn first(&self) -> Option<&Call<'a>> {
        self.first.and_then(|first| self.calls.get(first))
    }

    /// A frame all of whose functions are plumbing.
    #[must_use]
    pub fn is_plumbing(&self, frame: usize) -> bool {
        self.calls.iter().filter(|call| call.number == frame).all(|call| call.role == Role::Plumbing)
    }

    /// Calls for one line: indices of at most `max`, innermost first, and how many of the same kind are left out.
    /// Neither plumbing nor entries, unless there is nothing else.
    #[must_use]
    pub fn shown(&self, max: usize) -> (Vec<usize>, usize) {
        let telling = |&i: &usize| matches!(self.calls[i].role, Role::Work | Role::Trunk);
        let mut shown: Vec<usize> = (0..self.calls.len()).filter(telling).collect();
        let Some(first) = self.first else { return (shown, 0) };
        if shown.is_empty() {
            shown.push(first);
        }
        let max = max.max(1);
        let left_out = shown.len().saturating_sub(max);
        if left_out > 0 {
            // The end of a long line is what the program was asked to do, not that it has a `main`.
            let rest = &shown[max - 1..];
            let work = |&&i: &&usize| self.calls[i].role == Role::Work;
            let named = |i: &&usize| work(i) && self.calls[**i].symbol.is_some();
            let last = rest.iter().rfind(named).or_else(|| rest.iter().rfind(work)).or(rest.last());
            let last = *last.unwrap_or(&first);
            shown.truncate(max - 1);
            shown.push(if max == 1 { first } else { last });
        }
        (shown, left_out)
    }

    /// `ExecHashTableInsert ← MultiExecHash ← ExecHashJoin ← … ← PostgresMain`, at most `max` names. Ends with `← …` where
    /// the stack goes on beyond what is known.
    #[must_use]
    pub fn short(&self, max: usize) -> String {
        let (shown, left_out) = self.shown(max);
        let mut names: Vec<String> = shown.iter().map(|&i| self.calls[i].name()).collect();
        if left_out > 0 && names.len() > 1 {
            names.insert(names.len() - 1, "…".to_owned());
        }
        if !names.is_empty() && !matches!(self.end, StackEnd::Root | StackEnd::Off) {
            names.push("…".to_owned());
        }
        names.join(" ← ")
    }
}

/// A stack in one line; see [`Folded::short`]. Empty for a stack without frames.
#[must_use]
pub fn short(stack: &Stack, max: usize) -> String {
    fold(stack).short(max)
}

/// The innermost function of a frame without its arguments; `postgres+0x5d1a50` where it has no name, the address where
/// it is in no module. Escaped, at most 65 characters.
#[must_use]
pub fn frame_name(frame: &Frame) -> String {
    match frame.symbols.first().filter(|symbol| !symbol.name.is_empty()) {
        Some(symbol) => symbol_name(&symbol.name),
        None => place_name(frame),
    }
}

/// `hash_search (postgres)`, `unnamed code (postgres)`. Escaped and capped.
#[must_use]
pub fn function_name(Function { name, module, .. }: &Function) -> String {
    let name = match name.as_slice() {
        b"" if module.is_empty() => "code that no file holds".to_owned(),
        b"" => "unnamed code".to_owned(),
        name => symbol_name(name),
    };
    if module.is_empty() { name } else { format!("{name} ({})", escape(basename(module), NAME)) }
}

fn place_name(frame: &Frame) -> String {
    if frame.module.is_empty() {
        return format!("{:#x}", frame.ip);
    }
    let offset = format!("+{:#x}", frame.offset);
    format!("{}{offset}", escape(basename(&frame.module), NAME - offset.len()))
}

fn symbol_name(name: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(looked_at(name)) else { return escape(name, NAME) };
    let path = path(text);
    if path.chars().count() <= NAME {
        return escape(path.as_bytes(), NAME);
    }
    escape(without_arguments(path).as_bytes(), NAME)
}

fn looked_at(name: &[u8]) -> &[u8] {
    &name[..name.len().min(LOOKED_AT)]
}

/// The file that holds the frame is one of these libraries.
fn lies_in(frame: &Frame, libraries: &[&str]) -> bool {
    let module = basename(&frame.module);
    libraries.iter().any(|begin| module.starts_with(begin.as_bytes()))
}

/// What a name says.
struct Named {
    role: Role,
    /// Plumbing that calls nothing but plumbing.
    confined: bool,
}

fn named(frame: &Frame, name: &[u8]) -> Named {
    let name: Cow<'_, str> = String::from_utf8_lossy(looked_at(name));
    let path = path(&name);
    for (patterns, role) in [(ENTRY, Role::Entry), (TRUNK, Role::Trunk)] {
        if patterns.iter().any(|pattern| matches(pattern, path)) {
            return Named { role, confined: false };
        }
    }
    let subject = subject(path);
    let has = |family: &&Family| {
        (family.only_in.is_empty() || lies_in(frame, family.only_in))
            && family.names.iter().any(|pattern| matches(pattern, subject))
    };
    match PLUMBING.iter().find(has) {
        Some(family) => Named { role: Role::Plumbing, confined: !family.calls_back },
        None if lies_in(frame, ALLOCATORS) => Named { role: Role::Plumbing, confined: true },
        None => Named { role: Role::Work, confined: false },
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(begin) => name.starts_with(begin),
        None => name == pattern,
    }
}

/// The function's path without its result's type and its parameters, as demanglers print them:
/// `f` of `void f<int>(int) [clone .part.0]` is `f<int>`.
fn path(name: &str) -> &str {
    const ANONYMOUS: &[u8] = b"(anonymous namespace)";
    const OPERATOR: &[u8] = b"operator";
    let bytes = name.as_bytes();
    let (mut start, mut end, mut depth, mut at) = (0, bytes.len(), 0_usize, 0);
    let mut operator = false;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let begins_word = at == start || bytes[at - 1] == b':';
        if depth == 0 && begins_word && rest.starts_with(OPERATOR) {
            operator = true;
            at += OPERATOR.len();
            // The signs of the operator are no brackets.
            if bytes[at..].starts_with(b"()") {
                at += 2;
            }
            while bytes.get(at).is_some_and(|sign| b"<>=-+*/%&|^~!,[]".contains(sign)) {
                at += 1;
            }
            continue;
        }
        if rest.starts_with(ANONYMOUS) {
            at += ANONYMOUS.len();
            continue;
        }
        match bytes[at] {
            // Go has `runtime.(*mheap).alloc`.
            b'(' if depth == 0 && at > start && bytes[at - 1] != b'.' => {
                end = at;
                break;
            }
            b'<' | b'(' | b'{' | b'[' => depth += 1,
            b'>' if at > 0 && bytes[at - 1] == b'-' => {}
            b'>' | b')' | b'}' | b']' => depth = depth.saturating_sub(1),
            b' ' if depth == 0 && !operator => start = at + 1,
            _ => {}
        }
        at += 1;
    }
    match name.get(start..end) {
        Some(path) if !path.is_empty() => path,
        _ => name,
    }
}

/// The arguments of templates and generics as `<…>`.
fn without_arguments(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut depth = 0_usize;
    let mut before = ' ';
    for character in path.chars() {
        match character {
            // At the beginning the brackets hold the type itself.
            '<' if !out.is_empty() || depth > 0 => {
                if depth == 0 {
                    out.push_str("<…>");
                }
                depth += 1;
            }
            '>' if depth > 0 && before != '-' => depth -= 1,
            _ if depth == 0 => out.push(character),
            _ => {}
        }
        before = character;
    }
    out
}

/// What the tables are compared with.
fn subject(path: &str) -> &str {
    let path = owner(path);
    let path = path.split_once('@').map_or(path, |(name, _)| name);
    let path = if path.contains("::") { path } else { without_variant(path) };
    let path = path.strip_prefix("__GI_").unwrap_or(path).trim_start_matches('_');
    path.strip_prefix("libc_").unwrap_or(path)
}

/// In Rust's `<T as Trait>::f` the type, or the trait where the type has no path (`[T]`, `u8`, a parameter).
fn owner(path: &str) -> &str {
    let Some(inner) = path.strip_prefix('<') else { return path };
    let (owner, implemented) = inner.split_once(" as ").unwrap_or((inner, ""));
    let owner = owner.trim_start_matches(['&', '*', '[', '(', '<']);
    let owner = ["mut ", "const ", "dyn "].iter().fold(owner, |owner, word| owner.strip_prefix(word).unwrap_or(owner));
    let bare = owner.split(['<', ' ', '>', ',']).next().unwrap_or(owner);
    if bare.contains("::") || implemented.is_empty() { owner } else { implemented }
}

/// A C function's name without what compilers and the C library append for a variant of it.
fn without_variant(name: &str) -> &str {
    const CLONES: [&str; 7] = [".part.", ".isra.", ".constprop.", ".cold", ".llvm.", ".lto_priv.", ".localalias"];
    const VARIANTS: [&str; 10] =
        ["_avx", "_sse", "_ssse", "_evex", "_erms", "_generic", "_chk", "_ifunc", "_x86_64", "_unaligned"];
    let cut = CLONES.iter().chain(&VARIANTS).filter_map(|mark| name.find(mark)).min();
    cut.filter(|&at| at > 0).map_or(name, |at| &name[..at])
}
