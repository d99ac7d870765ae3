//! Code: places in it, their names, and call stacks.

use serde::{Deserialize, Serialize};

/// One place in code, numbered in order of appearance from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CodeId(pub u32);

/// One call stack, numbered in order of appearance from 0. Equal frames and ends have one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StackId(pub u32);

/// A name of a place in code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symbol {
    /// The function, demangled. Any bytes, capped.
    pub name: Vec<u8>,
    /// Source file, empty where unknown.
    pub file: Vec<u8>,
    /// Line in it, 0 where unknown.
    pub line: u32,
}

/// A place in code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// Its number.
    pub id: CodeId,
    /// The address: of the faulting instruction, of the one after a call in frames above.
    pub ip: u64,
    /// Path of the module as maps has it, `[vdso]`; empty when it is in none.
    pub module: Vec<u8>,
    /// Offset in the module's file; 0 when it is in none.
    pub offset: u64,
    /// The module's build-id, empty where it has none.
    pub build_id: Vec<u8>,
    /// Names, the innermost inlined function first, the function that holds the code last; empty where unknown.
    pub symbols: Vec<Symbol>,
    /// Offset of the address in the function that holds it; 0 where that is unknown.
    pub symbol_offset: u64,
}

/// How a stack ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StackEnd {
    /// At the thread's first frame: complete.
    Root,
    /// Deeper than what is copied.
    Deep,
    /// On a page of the stack that was not in memory.
    Absent,
    /// In code without unwinding information.
    NoUnwindInfo,
    /// Unwinding information that cannot be followed.
    BadUnwindInfo,
    /// In code that no file holds (a just-in-time compiler's).
    Jit,
    /// At an address where no code is mapped.
    Unmapped,
    /// In a module whose file could not be read, or is larger or stranger than is accepted.
    NoModule,
    /// The process ended before its mappings could be read.
    Gone,
    /// The copy had no room: one frame is known.
    Lost,
    /// In 32-bit code.
    Foreign,
    /// Stacks are not copied (`--no-stacks`): one frame is known.
    Off,
}

impl StackEnd {
    /// All, in the order of the outputs.
    pub const ALL: [Self; 12] = [
        Self::Root,
        Self::Deep,
        Self::Absent,
        Self::NoUnwindInfo,
        Self::BadUnwindInfo,
        Self::Jit,
        Self::Unmapped,
        Self::NoModule,
        Self::Gone,
        Self::Lost,
        Self::Foreign,
        Self::Off,
    ];

    /// Name in the outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Deep => "deep",
            Self::Absent => "absent",
            Self::NoUnwindInfo => "no_unwind_info",
            Self::BadUnwindInfo => "bad_unwind_info",
            Self::Jit => "jit",
            Self::Unmapped => "unmapped",
            Self::NoModule => "no_module",
            Self::Gone => "gone",
            Self::Lost => "lost",
            Self::Foreign => "foreign",
            Self::Off => "off",
        }
    }
}

/// A call stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// Its number.
    pub id: StackId,
    /// Innermost first.
    pub frames: Vec<CodeId>,
    /// How it ends.
    pub end: StackEnd,
}

/// A module that left code without a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unnamed {
    /// Its path, as maps has it: any bytes.
    pub module: Vec<u8>,
    /// Places in it that have no name.
    pub places: u64,
    /// What to type to get names.
    pub advice: String,
}

/// Why places have no names though their module could have held some. All zero is the normal case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameFailures {
    /// Modules, or their debugging information, that took too long to read.
    pub timeouts: u64,
    /// Modules, or their debugging information, that ended the process that read them.
    pub crashes: u64,
    /// Places at which debugging information could not be read.
    pub unreadable: u64,
    /// Modules that are no ELF file of the right kind, or too large.
    pub refused: u64,
    /// Times that no process could be started.
    pub unstarted: u64,
}

/// How naming went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Naming {
    /// Modules that left code without names, in order of appearance.
    pub unnamed: Vec<Unnamed>,
    /// What went wrong.
    pub failures: NameFailures,
}
