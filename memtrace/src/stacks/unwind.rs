//! From registers and a copy of the stack to return addresses.
//!
//! Follows what the files say and what a call instruction proves, and refuses to guess: where neither leads on, the stack
//! ends, and the end says why.

use super::cfi::{Found, Kind, Row, Rows, Rule};
use super::elf::Image;
use super::expression;
use super::module::Module;
use crate::event::StackEnd;
use memtrace_common::{RED_ZONE, STACK_RETURNS, StackPath, StackRecord};
use std::sync::Arc;

/// Frames of a stack.
pub const FRAMES_MAX: usize = 256;
/// The first frame of a thread lies this near to the end of its stack.
const OUTERMOST: u64 = 4096;
/// Code at a program's entry that is without unwinding information.
const ENTRY_LENGTH: u64 = 64;

/// DWARF's numbers of the registers on x86-64.
const RBP: usize = 6;
const RSP: usize = 7;
/// The return address: the instruction pointer.
const RA: usize = 16;
/// Which of `StackRecord::regs` (`struct pt_regs`) is which, in DWARF's order.
const FROM_PT_REGS: [usize; 17] = [10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0, 16];
/// Where a signal frame has them, seen from the stack pointer in its trampoline; the same order.
const IN_SIGNAL_FRAME: [u64; 17] = [144, 136, 152, 128, 112, 104, 120, 160, 40, 48, 56, 64, 72, 80, 88, 96, 168];
/// `mov $15, %rax; syscall`: returns from a signal handler.
const SIGRETURN: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05];

/// The registers of a frame, as far as they are known.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    numbers: [u64; 17],
    known: u32,
}

impl Registers {
    /// As the kernel saved them.
    #[must_use]
    pub fn new(pt_regs: &[u64; 21]) -> Self {
        Self { numbers: FROM_PT_REGS.map(|at| pt_regs[at]), known: (1 << 17) - 1 }
    }

    /// The same, of which only the stack pointer and the instruction pointer are known.
    #[must_use]
    pub fn stack_and_code(pt_regs: &[u64; 21]) -> Self {
        Self { known: 1 << RSP | 1 << RA, ..Self::new(pt_regs) }
    }

    /// By DWARF's number.
    #[must_use]
    pub fn get(&self, register: u16) -> Option<u64> {
        let register = usize::from(register);
        (register <= RA && self.known >> register & 1 != 0).then(|| self.numbers[register])
    }

    const fn set(&mut self, register: usize, number: Option<u64>) {
        match number {
            Some(number) => {
                self.numbers[register] = number;
                self.known |= 1 << register;
            }
            None => self.known &= !(1 << register),
        }
    }
}

/// A copied stack.
#[derive(Clone, Copy, Debug)]
pub struct StackCopy<'a> {
    start: u64,
    /// What lies below means nothing.
    low: u64,
    end: u64,
    absent: u32,
    bytes: &'a [u8],
}

impl<'a> StackCopy<'a> {
    /// The pages that follow a record.
    #[must_use]
    pub const fn new(record: &StackRecord, bytes: &'a [u8]) -> Self {
        let low = record.regs[19].saturating_sub(RED_ZONE);
        Self { start: record.start, low, end: record.end, absent: record.absent, bytes }
    }

    /// The word at an address.
    fn word(&self, address: u64) -> Result<u64, StackEnd> {
        self.number(address, 8)
    }

    /// The number of at most eight bytes at an address.
    ///
    /// # Errors
    /// Why it is not there.
    pub fn number(&self, address: u64, size: u8) -> Result<u64, StackEnd> {
        let outside = || {
            let whole = self.start.saturating_add(self.bytes.len() as u64) >= self.end;
            // What lies above the end of a stack that is here whole is none of its frames.
            if whole && address >= self.end && self.end > self.start { StackEnd::BadUnwindInfo } else { StackEnd::Deep }
        };
        let size = usize::from(size.min(8));
        if address < self.low {
            return Err(outside());
        }
        let at = address.checked_sub(self.start).and_then(|at| usize::try_from(at).ok()).ok_or_else(outside)?;
        let found = self.bytes.get(at..).and_then(|rest| rest.get(..size)).ok_or_else(outside)?;
        let missing = |at: usize| self.absent.checked_shr((at >> 12) as u32).unwrap_or(0) & 1 != 0;
        if missing(at) || missing(at + size.saturating_sub(1)) {
            return Err(StackEnd::Absent);
        }
        let mut word = [0; 8];
        word[..size].copy_from_slice(found);
        Ok(u64::from_le_bytes(word))
    }
}

/// What lies at an address.
#[derive(Clone, Debug)]
pub enum Place {
    /// Code of a file, and where in the file.
    Code(Arc<Module>, u64),
    /// Code that no file holds.
    Jit(Arc<Module>),
    /// No code.
    Unmapped,
    /// Nobody knows: the process is gone.
    Gone,
}

/// One frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The address; that of the instruction after a call, unless `exact`.
    pub ip: u64,
    /// The instruction at `ip` was about to be carried out (again).
    pub exact: bool,
    /// What lies there.
    pub place: Place,
}

/// Follows stacks.
#[derive(Debug)]
pub struct Unwinder {
    rows: Rows,
    /// Innermost first.
    pub frames: Vec<Frame>,
    /// The path, as the probes compare it.
    pub path: StackPath,
}

impl Unwinder {
    /// With nothing known.
    pub fn new() -> Self {
        Self { rows: Rows::new(), frames: Vec::new(), path: StackPath::default() }
    }

    /// One frame is all that is known.
    pub fn only(&mut self, frame: Frame) {
        self.path = StackPath::default();
        self.frames.clear();
        self.frames.push(frame);
    }

    /// Unwinds into `frames` and `path`. `find` says what lies at an address.
    pub fn unwind(
        &mut self,
        mut registers: Registers,
        copy: &StackCopy<'_>,
        mut find: impl FnMut(u64) -> Place,
    ) -> StackEnd {
        self.frames.clear();
        self.path = StackPath::default();
        let begin = registers.numbers[RSP];
        let (mut returns, mut comparing) = (0, true);
        let mut exact = true;
        loop {
            let ip = registers.numbers[RA];
            let address = if exact { ip } else { ip.wrapping_sub(1) };
            let place = find(address);
            if matches!(place, Place::Unmapped | Place::Gone) && !self.frames.is_empty() {
                return if matches!(place, Place::Gone) { StackEnd::Gone } else { StackEnd::Unmapped };
            }
            self.frames.push(Frame { ip, exact, place });
            let step = match &self.frames[self.frames.len() - 1].place {
                Place::Code(module, offset) => {
                    let offset = if exact { *offset } else { offset.wrapping_add(1) };
                    step(&mut self.rows, &registers, copy, module, address, offset, &mut find)
                }
                Place::Jit(_) => Err(StackEnd::Jit),
                Place::Unmapped => Err(StackEnd::Unmapped),
                Place::Gone => Err(StackEnd::Gone),
            };
            let step = match step {
                Ok(_) if self.frames.len() == FRAMES_MAX => return StackEnd::Deep,
                Ok(step) => step,
                Err(end) => return end,
            };
            // Nobody calls a signal's trampoline: the handler returns to its begin, and its name starts there.
            if let Some(trampoline) = self.frames.last_mut().filter(|frame| step.signal && !frame.exact) {
                trampoline.exact = true;
                if let Place::Code(_, offset) = &mut trampoline.place {
                    *offset = offset.wrapping_add(1);
                }
            }
            comparing &= !step.signal && returns < STACK_RETURNS;
            if comparing && let Some(slot) = step.slot {
                // The lower half of a return address is never 0 but where somebody mapped code there on purpose.
                let offset = slot.checked_sub(begin).and_then(|offset| u32::try_from(offset).ok());
                if let Some(offset) = offset.filter(|_| step.registers.numbers[RA] as u32 != 0) {
                    self.path.offsets[returns] = offset;
                    self.path.returns[returns] = step.registers.numbers[RA] as u32;
                    returns += 1;
                }
            }
            (registers, exact) = (step.registers, step.signal);
        }
    }
}

/// The way from a frame to its caller.
struct Step {
    registers: Registers,
    /// Where the return address was, if it was in memory.
    slot: Option<u64>,
    /// The caller was not calling.
    signal: bool,
}

fn step(
    rows: &mut Rows,
    registers: &Registers,
    copy: &StackCopy<'_>,
    module: &Module,
    address: u64,
    offset: u64,
    find: &mut impl FnMut(u64) -> Place,
) -> Result<Step, StackEnd> {
    let (Some(image), Some(bias)) = (module.image(), module.bias()) else { return Err(StackEnd::NoModule) };
    let in_file = address.wrapping_sub(bias);
    // At its very begin a program was not called; what its row says holds from the second instruction on.
    if in_file == image.entry() {
        return Err(StackEnd::Root);
    }
    match rows.find(module.code(), image, in_file) {
        Found::Row(row) => step_by_row(&row, rows.rules(&row), image, registers, copy),
        Found::Bad => Err(StackEnd::BadUnwindInfo),
        Found::Nothing if in_file.checked_sub(image.entry()).is_some_and(|past| past < ENTRY_LENGTH) => {
            Err(StackEnd::Root)
        }
        Found::Nothing => {
            let mut code = [0; SIGRETURN.len()];
            if image.read_code(offset, &mut code) && code == SIGRETURN {
                return step_by_signal(registers, copy);
            }
            step_by_call(registers, copy, find)
        }
    }
}

/// As the row says.
fn step_by_row(
    row: &Row,
    rules: &[Rule],
    image: &Image,
    registers: &Registers,
    copy: &StackCopy<'_>,
) -> Result<Step, StackEnd> {
    const BAD: StackEnd = StackEnd::BadUnwindInfo;
    let evaluate = |rule: Rule, initial| {
        let expression = image.cfi().expression(rule, row.in_debug_frame).ok_or(BAD)?;
        expression::evaluate(expression, initial, registers, copy)
    };
    let column = row.return_column;
    let return_rule = rules.iter().find(|rule| rule.register == column).ok_or(BAD)?;
    match return_rule.kind {
        Kind::Undefined => return Err(StackEnd::Root),
        Kind::Same => return Err(BAD),
        _ => {}
    }
    let cfa = match row.cfa.kind {
        Kind::Base => registers.get(row.cfa.register.into()).ok_or(BAD)?.wrapping_add_signed(row.cfa.value.into()),
        _ => evaluate(row.cfa, None)?,
    };
    // Each caller lies above; only a signal can have come while another stack was in use.
    if !row.signal && cfa <= registers.numbers[RSP] {
        return Err(BAD);
    }
    let mut caller = *registers;
    caller.set(RSP, Some(cfa));
    let mut slot = None;
    for rule in rules {
        let at = cfa.wrapping_add_signed(rule.value.into());
        let number = match rule.kind {
            Kind::Undefined => None,
            Kind::Same => registers.get(rule.register.into()),
            Kind::Offset => Some(copy.word(at)?),
            Kind::ValOffset => Some(at),
            Kind::Register => registers.get(u16::try_from(rule.value).map_err(|_| BAD)?),
            Kind::Expression => Some(copy.word(evaluate(*rule, Some(cfa))?)?),
            Kind::ValExpression => Some(evaluate(*rule, Some(cfa))?),
            Kind::Base => return Err(BAD),
        };
        caller.set(rule.register.into(), number);
        if rule.register == column && rule.kind == Kind::Offset {
            slot = Some(at);
        }
    }
    let to = caller.get(column.into()).ok_or(BAD)?;
    caller.set(RA, Some(to));
    if caller.get(RSP as u16).is_none() {
        return Err(BAD);
    }
    let outermost = copy.end.checked_sub(cfa).is_some_and(|left| left < OUTERMOST);
    if to == 0 && outermost {
        return Err(StackEnd::Root);
    }
    Ok(Step { registers: caller, slot, signal: row.signal })
}

/// Back to where a signal came, from a trampoline that no row covers.
fn step_by_signal(registers: &Registers, copy: &StackCopy<'_>) -> Result<Step, StackEnd> {
    let frame = registers.numbers[RSP];
    let mut caller = *registers;
    for (register, at) in IN_SIGNAL_FRAME.iter().enumerate() {
        caller.set(register, Some(copy.word(frame.wrapping_add(*at))?));
    }
    Ok(Step { registers: caller, slot: None, signal: true })
}

/// Out of a function that no row covers: its return address is on top of the stack, or below it the frame pointer that it
/// has just pushed. Believed only where a call instruction precedes the return address.
fn step_by_call(
    registers: &Registers,
    copy: &StackCopy<'_>,
    find: &mut impl FnMut(u64) -> Place,
) -> Result<Step, StackEnd> {
    let sp = registers.numbers[RSP];
    let pushed = registers.get(RBP as u16) == Some(sp);
    let slot = if pushed { sp.wrapping_add(8) } else { sp };
    let to = copy.word(slot)?;
    let Place::Code(module, offset) = find(to.wrapping_sub(1)) else { return Err(StackEnd::NoUnwindInfo) };
    if !module.image().is_some_and(|image| follows_a_call(image, offset.wrapping_add(1))) {
        return Err(StackEnd::NoUnwindInfo);
    }
    let mut caller = *registers;
    if pushed {
        caller.set(RBP, Some(copy.word(sp)?));
    }
    caller.set(RSP, Some(slot.checked_add(8).ok_or(StackEnd::NoUnwindInfo)?));
    caller.set(RA, Some(to));
    Ok(Step { registers: caller, slot: Some(slot), signal: false })
}

/// Whether what precedes a place in a file may be a call instruction.
fn follows_a_call(image: &Image, offset: u64) -> bool {
    let mut code = [0; 7];
    let Some(begin) = offset.checked_sub(7) else { return false };
    image.read_code(begin, &mut code) && ends_in_a_call(&code)
}

/// `call` relative, or indirect through a register or memory in any of its forms.
fn ends_in_a_call(code: &[u8; 7]) -> bool {
    if code[2] == 0xe8 {
        return true;
    }
    (2..=7).any(|length| {
        let instruction = &code[7 - length..];
        let (mode, operation, base) = (instruction[1] >> 6, instruction[1] >> 3 & 7, instruction[1] & 7);
        let has_sib = mode != 3 && base == 4;
        let no_base = mode == 0 && (base == 5 || has_sib && instruction.get(2).is_some_and(|sib| sib & 7 == 5));
        let displacement = match mode {
            1 => 1,
            2 => 4,
            _ if no_base => 4,
            _ => 0,
        };
        instruction[0] == 0xff && operation == 2 && length == 2 + usize::from(has_sib) + displacement
    })
}

#[cfg(test)]
mod tests {
    use super::ends_in_a_call;

    #[test]
    fn calls_are_told_from_other_instructions() {
        // As objdump shows them, padded in front.
        for call in [
            [0x90, 0x90, 0xe8, 0x12, 0x34, 0x56, 0x78],
            [0x90, 0x90, 0x90, 0x90, 0x90, 0xff, 0xd0],
            [0x90, 0x90, 0x90, 0x90, 0x90, 0xff, 0x13],
            [0x90, 0x90, 0x90, 0x90, 0xff, 0x50, 0x18],
            [0x90, 0x90, 0x90, 0x90, 0xff, 0x14, 0xc3],
            [0x90, 0x90, 0x90, 0xff, 0x54, 0x24, 0x08],
            [0x90, 0xff, 0x15, 0x01, 0x02, 0x03, 0x04],
            [0x90, 0xff, 0x90, 0xc8, 0x00, 0x00, 0x00],
            [0xff, 0x94, 0x24, 0xc8, 0x00, 0x00, 0x00],
            [0xff, 0x14, 0xc5, 0xc8, 0x00, 0x00, 0x00],
        ] {
            assert!(ends_in_a_call(&call), "{call:x?}");
        }
        for other in [
            [0x90; 7],
            // jmp *%rax, push 0x18(%rax), call cut short
            [0x90, 0x90, 0x90, 0x90, 0x90, 0xff, 0xe0],
            [0x90, 0x90, 0x90, 0x90, 0xff, 0x70, 0x18],
            [0x90, 0xe8, 0x12, 0x34, 0x56, 0x78, 0x90],
            [0x90, 0x90, 0x90, 0xff, 0x15, 0x01, 0x02],
        ] {
            assert!(!ends_in_a_call(&other), "{other:x?}");
        }
    }
}
