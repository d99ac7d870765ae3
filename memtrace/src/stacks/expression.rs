//! DWARF expressions, as far as unwinding information has them: numbers, registers and memory. No types, no calls.

use super::unwind::{Registers, StackCopy};
use crate::event::StackEnd;
use gimli::{Encoding, EndianSlice, Format, LittleEndian, Operation};

/// Operations that are carried out; the longest expression known, of a signal frame, has three.
const STEPS_MAX: usize = 512;
/// Depth of the stack of numbers.
const DEPTH_MAX: usize = 32;

const ENCODING: Encoding = Encoding { address_size: 8, format: Format::Dwarf32, version: 4 };

/// A stack of numbers that cannot grow without end.
struct Numbers {
    numbers: [u64; DEPTH_MAX],
    depth: usize,
}

impl Numbers {
    fn push(&mut self, number: u64) -> Option<()> {
        *self.numbers.get_mut(self.depth)? = number;
        self.depth += 1;
        Some(())
    }

    fn pop(&mut self) -> Option<u64> {
        self.depth = self.depth.checked_sub(1)?;
        Some(self.numbers[self.depth])
    }

    fn pick(&self, index: usize) -> Option<u64> {
        Some(self.numbers[self.depth.checked_sub(1)?.checked_sub(index)?])
    }
}

/// What an expression says. `initial` is on the stack at its begin.
///
/// # Errors
/// [`StackEnd::BadUnwindInfo`], or why memory that it wants to read is not there.
pub fn evaluate(
    expression: &[u8],
    initial: Option<u64>,
    registers: &Registers,
    copy: &StackCopy<'_>,
) -> Result<u64, StackEnd> {
    const BAD: StackEnd = StackEnd::BadUnwindInfo;
    let mut stack = Numbers { numbers: [0; DEPTH_MAX], depth: 0 };
    if let Some(initial) = initial {
        stack.push(initial).ok_or(BAD)?;
    }
    let mut rest = EndianSlice::new(expression, LittleEndian);
    for _ in 0..STEPS_MAX {
        if rest.is_empty() {
            return stack.pop().ok_or(BAD);
        }
        let operation = Operation::parse(&mut rest, ENCODING).map_err(|_| BAD)?;
        if let Operation::Deref { size, space: false, .. } = operation {
            let address = stack.pop().ok_or(BAD)?;
            stack.push(copy.number(address, size)?).ok_or(BAD)?;
        } else if let Operation::Skip { target } | Operation::Bra { target } = operation {
            let taken = !matches!(operation, Operation::Bra { .. }) || stack.pop().ok_or(BAD)? != 0;
            if taken {
                let here = expression.len() - rest.len();
                let there = here.checked_add_signed(target.into()).and_then(|there| expression.get(there..));
                rest = EndianSlice::new(there.ok_or(BAD)?, LittleEndian);
            }
        } else {
            compute(&operation, &mut stack, registers).ok_or(BAD)?;
        }
    }
    Err(BAD)
}

/// An operation that touches neither memory nor the order.
fn compute(operation: &Operation<EndianSlice<'_, LittleEndian>>, stack: &mut Numbers, r: &Registers) -> Option<()> {
    let result = match *operation {
        Operation::Nop => return Some(()),
        Operation::Drop => return stack.pop().map(|_| ()),
        Operation::UnsignedConstant { value } => value,
        Operation::SignedConstant { value } => value.cast_unsigned(),
        Operation::RegisterOffset { register, offset, .. } => r.get(register.0)?.wrapping_add_signed(offset),
        Operation::Pick { index } => stack.pick(index.into())?,
        Operation::Swap => {
            let (top, second) = (stack.pop()?, stack.pop()?);
            stack.push(top)?;
            second
        }
        Operation::Rot => {
            let (top, second, third) = (stack.pop()?, stack.pop()?, stack.pop()?);
            stack.push(top)?;
            stack.push(third)?;
            second
        }
        Operation::PlusConstant { value } => stack.pop()?.wrapping_add(value),
        Operation::Abs => stack.pop()?.cast_signed().unsigned_abs(),
        Operation::Neg => stack.pop()?.wrapping_neg(),
        Operation::Not => !stack.pop()?,
        ref binary => {
            let (b, a) = (stack.pop()?, stack.pop()?);
            let (signed_a, signed_b) = (a.cast_signed(), b.cast_signed());
            let shift = u32::try_from(b).unwrap_or(u32::MAX);
            match binary {
                Operation::And => a & b,
                Operation::Or => a | b,
                Operation::Xor => a ^ b,
                Operation::Plus => a.wrapping_add(b),
                Operation::Minus => a.wrapping_sub(b),
                Operation::Mul => a.wrapping_mul(b),
                Operation::Div => signed_a.checked_div(signed_b)?.cast_unsigned(),
                Operation::Mod => a.checked_rem(b)?,
                Operation::Shl => a.checked_shl(shift).unwrap_or(0),
                Operation::Shr => a.checked_shr(shift).unwrap_or(0),
                Operation::Shra => (signed_a >> shift.min(63)).cast_unsigned(),
                Operation::Eq => u64::from(a == b),
                Operation::Ne => u64::from(a != b),
                Operation::Ge => u64::from(signed_a >= signed_b),
                Operation::Gt => u64::from(signed_a > signed_b),
                Operation::Le => u64::from(signed_a <= signed_b),
                Operation::Lt => u64::from(signed_a < signed_b),
                _ => return None,
            }
        }
    };
    stack.push(result)
}
