//! Names of places in code: functions, inlined ones too, and source lines.
//!
//! Names come from files that the target chose, so they are read by a process of their own, which may take three
//! seconds for its first answer about a module, ten for any other and in all, and which may crash: a hostile file costs a
//! counter and its own names. A place that no symbol spans has no name: the function before it is another one.

mod debug_file;
mod debug_package;
mod elf;
mod lines;
mod module_file;
mod perf_map;
mod question;
mod reader;
#[cfg(test)]
mod tests;
mod text;
mod worker;

pub use debug_package::{Advice, Hint};
pub use module_file::ModuleFile;
pub(super) use text::shown;

use super::recent::Recent;
use crate::event::NameFailures as Failures;
use crate::event::{Code, CodeId, Event};
use debug_package::Wanting;
use module_file::{Identity, Kind};
use question::{Answer, Named, Place, Question};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use worker::{Failure, Worker};

/// First argument of the process that reads symbols.
const READER: &str = "__read-symbols";
/// Places that are known at once: calls of later batches lead to new leaves.
const CODES_MAX: usize = 1 << 17;
/// What an answer may hold of one place, whoever gave it.
const MAX_SYMBOLS: usize = 64;

/// Does the work of the process that reads symbols, if this process was started to do that: to be called before
/// anything else. `None` in any other process.
#[must_use]
pub fn read_symbols_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != READER {
        return None;
    }
    Some(reader::serve().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS))
}

/// Where the name of a code is to be found.
#[derive(Clone, Debug)]
pub struct NewCode {
    /// What has it.
    pub file: Arc<ModuleFile>,
    /// The address is the one after a call: of the function that holds the byte before. Else it is the instruction's own,
    /// as in a leaf or in what a signal interrupted.
    pub after_call: bool,
}

/// How much of a module is still read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Level {
    Nothing,
    /// Debugging information took too long or crashed.
    Symbols,
    Lines,
}

/// A module that names were asked of.
struct Known {
    /// Its owner closes it: descriptors are few.
    file: Weak<ModuleFile>,
    level: Level,
    answered: bool,
    /// CPU time, at this level.
    spent: Duration,
    /// Of a file, until its hint is given: how many places have no name, and might have one with a debug package.
    wanting: Option<Wanting>,
}

/// How long an answer may take.
#[derive(Clone, Copy)]
struct Budget {
    first: Duration,
    all: Duration,
}

/// Names places in code.
pub struct Names {
    program: Box<dyn Fn() -> Command + Send>,
    budget: Budget,
    worker: Option<Worker>,
    ids: HashMap<Identity, usize>,
    modules: Vec<Known>,
    /// Module and offset of each code, for the calls that stacks of later batches have.
    codes: Recent<CodeId, (usize, u64)>,
    failures: Failures,
    /// Of readers that have ended, and of the one that runs.
    cpu_ns: (u64, u64),
}

impl Default for Names {
    fn default() -> Self {
        Self::new()
    }
}

impl Names {
    /// Nothing is started before the first name is asked for.
    #[must_use]
    pub fn new() -> Self {
        Self::with(
            || {
                let mut program = Command::new("/proc/self/exe");
                program.arg(READER);
                program
            },
            Budget { first: Duration::from_secs(3), all: Duration::from_secs(10) },
        )
    }

    fn with(program: impl Fn() -> Command + Send + 'static, budget: Budget) -> Self {
        Self {
            program: Box::new(program),
            budget,
            worker: None,
            ids: HashMap::new(),
            modules: Vec::new(),
            codes: Recent::new(CODES_MAX),
            failures: Failures::default(),
            cpu_ns: (0, 0),
        }
    }

    /// Fills `symbols` and `symbol_offset` of each [`Event::Code`], as far as they are known. `new` has those of the
    /// codes in `events`; a code without one stays as it is. Calls of earlier batches name leaves of this one as long as
    /// their module is kept by the caller.
    ///
    /// Which call reached an unnamed leaf is seen from the [`Event::Stack`]s in `events`: a stack should come with its
    /// new codes.
    pub fn name_all(&mut self, events: &mut [Event], new: &HashMap<CodeId, NewCode>) {
        let mut asked: BTreeMap<usize, Vec<(usize, Place)>> = BTreeMap::new();
        let mut fresh = HashMap::new();
        for (index, event) in events.iter().enumerate() {
            let Event::Code(code) = event else { continue };
            let Some(&NewCode { ref file, after_call }) = new.get(&code.id) else { continue };
            let module = self.module(file);
            let at = if matches!(file.kind, Kind::PerfMap { .. }) { code.ip } else { code.offset };
            self.codes.insert(code.id, (module, at));
            fresh.insert(code.id, index);
            if code.symbols.is_empty() {
                asked.entry(module).or_default().push((index, Place { at, after_call }));
            }
        }
        for (module, wanted) in asked {
            let places: Vec<Place> = wanted.iter().map(|(_, place)| *place).collect();
            let named = self.name_places(module, &places);
            for ((index, _), named) in wanted.into_iter().zip(named) {
                if let Some(Event::Code(code)) = events.get_mut(index) {
                    fill(code, named);
                }
            }
        }
        self.name_leaves(events, &fresh);
    }

    /// Names the leaves that no symbol spans by what was called to get there: the variants of indirect functions
    /// (memcpy and friends) have no symbol in a stripped library.
    fn name_leaves(&mut self, events: &mut [Event], fresh: &HashMap<CodeId, usize>) {
        let pairs: BTreeSet<(CodeId, CodeId)> = events
            .iter()
            .filter_map(|event| match event {
                Event::Stack(stack) => Some((*stack.frames.first()?, *stack.frames.get(1)?)),
                _ => None,
            })
            .collect();
        for (leaf, caller) in pairs {
            let Some(&index) = fresh.get(&leaf) else { continue };
            let (Some((module, _)), Some((calling, returns_to))) = (self.codes.get(&leaf), self.codes.get(&caller))
            else {
                continue;
            };
            if let Some(Event::Code(code)) = events.get_mut(index)
                && code.symbols.is_empty()
                && let Some(named) = self.variant(module, calling, returns_to)
            {
                fill(code, named);
            }
        }
    }

    fn variant(&mut self, module: usize, calling: usize, returns_to: u64) -> Option<Named> {
        let answer = self.ask(calling, |module, _| Question::Callee { module, returns_to })?;
        let callee = answer.callee?;
        // What a module's own resolver chose is in that module.
        if matches!(callee, question::Callee::Resolver(_)) && module != calling {
            return None;
        }
        let answer = self.ask(module, |module, _| Question::Variant { module, callee: callee.clone() })?;
        answer.named.into_iter().next()
    }

    /// One per place.
    fn name_places(&mut self, module: usize, places: &[Place]) -> Vec<Named> {
        let question = |module, lines| Question::Name { module, lines, places: places.to_vec() };
        let mut answer = self.ask(module, question).unwrap_or_default();
        answer.named.resize_with(places.len(), Named::default);
        if !answer.whole && !answer.refused {
            let unnamed = answer.named.iter().filter(|named| named.symbols.is_empty()).count();
            if let Some(wanting) = &mut self.modules[module].wanting {
                wanting.unnamed += unnamed as u64;
            }
        }
        answer.named
    }

    fn module(&mut self, file: &Arc<ModuleFile>) -> usize {
        let index = *self.ids.entry(file.identity()).or_insert_with(|| {
            let (level, wanting) = (Level::Lines, file.wanting());
            self.modules.push(Known { file: Weak::new(), level, answered: false, spent: Duration::ZERO, wanting });
            self.modules.len() - 1
        });
        // The one that came with these codes lives until they are named; an earlier one may be dropped meanwhile.
        self.modules[index].file = Arc::downgrade(file);
        index
    }

    /// Asks about a module: with its debugging information, without when that fails, not at all when that fails too.
    fn ask(&mut self, index: usize, question: impl Fn(question::Module, bool) -> Question) -> Option<Answer> {
        loop {
            let known = self.modules.get_mut(index).filter(|known| known.level > Level::Nothing)?;
            let left = self.budget.all.saturating_sub(known.spent);
            let time = if known.answered { left } else { left.min(self.budget.first) };
            let file = known.file.upgrade()?;
            let question = question(file.opened_as(u32::try_from(index).ok()?), known.level == Level::Lines);
            let began = Instant::now();
            let result = if time.is_zero() { Err(Failure::Timeout) } else { self.exchange(&question, time)? };
            let known = &mut self.modules[index];
            match result {
                Ok(answer) => {
                    known.answered = true;
                    // On a busy machine most of the time is not the module's.
                    let used = Duration::from_nanos(answer.cpu_ns.saturating_sub(self.cpu_ns.1));
                    known.spent += used.min(began.elapsed());
                    if answer.refused {
                        known.level = Level::Nothing;
                        self.failures.refused += 1;
                    }
                    self.failures.unreadable += u64::from(answer.unreadable);
                    self.cpu_ns.1 = answer.cpu_ns;
                    return Some(answer);
                }
                Err(failure) => {
                    match failure {
                        Failure::Timeout => self.failures.timeouts += 1,
                        Failure::Died => self.failures.crashes += 1,
                    }
                    known.level = if known.level == Level::Lines { Level::Symbols } else { Level::Nothing };
                    (known.answered, known.spent) = (false, Duration::ZERO);
                }
            }
        }
    }

    /// `None` when there is nobody to ask.
    fn exchange(&mut self, question: &Question, time: Duration) -> Option<Result<Answer, Failure>> {
        loop {
            if self.worker.is_none() {
                match Worker::start((self.program)()) {
                    Ok(worker) => self.worker = Some(worker),
                    Err(error) => {
                        log::debug!("failed to start the reader of symbols: {error}");
                        self.failures.unstarted += 1;
                        return None;
                    }
                }
            }
            let worker = self.worker.as_mut()?;
            let result = worker.ask(question, time);
            let Err(failure) = result else { return Some(result) };
            let fresh = worker.answered == 0;
            self.worker = None;
            self.cpu_ns = (self.cpu_ns.0 + self.cpu_ns.1, 0);
            // What it had read of other modules may have filled its memory: a death is a module's own only when the
            // process had read nothing else.
            if failure == Failure::Timeout || fresh {
                return Some(Err(failure));
            }
        }
    }

    /// Why places have no names.
    #[must_use]
    pub fn failures(&self) -> Failures {
        self.failures
    }

    /// CPU time of the processes that read symbols, which is not in that of this process.
    #[must_use]
    pub fn cpu_ns(&self) -> u64 {
        self.cpu_ns.0 + self.cpu_ns.1
    }

    /// Which debug package would name more: once for each file that left code without a name, in order of appearance.
    /// Reads the package manager's lists.
    pub fn hints(&mut self) -> Vec<Hint> {
        let unnamed = |file: &mut Wanting| file.unnamed > 0;
        let wanting: Vec<Wanting> =
            self.modules.iter_mut().filter_map(|known| known.wanting.take_if(unnamed)).collect();
        debug_package::hints(&wanting)
    }
}

/// Moves names into a code, as many as a code may have.
fn fill(code: &mut Code, mut named: Named) {
    named.symbols.truncate(MAX_SYMBOLS);
    for symbol in &mut named.symbols {
        symbol.name.truncate(text::MAX_NAME);
        symbol.file.truncate(text::MAX_NAME);
    }
    code.symbols = named.symbols;
    code.symbol_offset = named.offset;
}
