//! Numbers and lines in bytes. Nothing here allocates, and nothing accepts what the kernel would not print.

/// The lines of a file of /proc. A last line without its newline is not a line: the reading was cut, and half a number is a wrong number.
pub(super) struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Lines<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Offers the next line if it is laid out as nearly all lines of smaps are: a label padded to 16 bytes, an amount
    /// padded to 8, ` kB`. It is passed when `take` accepts both; there is no newline in what it accepts.
    #[inline]
    pub(super) fn next_padded(&mut self, take: impl FnOnce(u128, &[u8; 8]) -> bool) -> bool {
        if let Some((label, rest)) = self.rest.split_first_chunk::<16>()
            && let Some((amount, rest)) = rest.split_first_chunk::<8>()
            && let Some(rest) = rest.strip_prefix(b" kB\n")
            && take(u128::from_le_bytes(*label), amount)
        {
            self.rest = rest;
            return true;
        }
        false
    }

    /// Bytes after the last whole line.
    pub(super) const fn is_cut(&self) -> bool {
        !self.rest.is_empty()
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(b'\n', self.rest)?;
        let line = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Some(line)
    }
}

/// A lower-case hexadecimal number at the front, and what follows it.
pub(super) fn hex(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    let mut length = 0;
    for &byte in bytes {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => break,
        };
        if length == 16 {
            return None;
        }
        value = value << 4 | u64::from(digit);
        length += 1;
    }
    (length > 0).then(|| (value, &bytes[length..]))
}

/// A decimal number at the front, and what follows it.
#[inline]
pub(super) fn decimal(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    let mut length = 0;
    for &byte in bytes {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
        length += 1;
    }
    (length > 0).then(|| (value, &bytes[length..]))
}

/// A decimal number with nothing but blanks before it.
#[inline]
pub(super) fn padded_decimal(bytes: &[u8; 8]) -> Option<u64> {
    let (mut value, mut weight) = (0, 1);
    for (i, &byte) in bytes.iter().enumerate().rev() {
        match byte {
            b'0'..=b'9' => value += u64::from(byte - b'0') * weight,
            b' ' if weight > 1 => {
                return bytes[..i].iter().all(|&byte| byte == b' ').then_some(value);
            }
            _ => return None,
        }
        weight *= 10;
    }
    Some(value)
}

/// What follows this byte, when it is at the front.
pub(super) fn after(bytes: &[u8], byte: u8) -> Option<&[u8]> {
    match bytes.split_first() {
        Some((&first, rest)) if first == byte => Some(rest),
        _ => None,
    }
}

/// Without leading blanks and tabs.
#[inline]
pub(super) fn skip_blanks(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

/// `      12 kB` as bytes.
#[inline]
pub(super) fn kilobytes(bytes: &[u8]) -> Option<u64> {
    let (value, unit) = decimal(skip_blanks(bytes))?;
    if unit != b" kB" {
        return None;
    }
    value.checked_mul(1024)
}

/// A number alone.
pub(super) fn whole_decimal(bytes: &[u8]) -> Option<u64> {
    match decimal(skip_blanks(bytes))? {
        (value, []) => Some(value),
        _ => None,
    }
}

/// A number alone that fits 32 bits.
pub(super) fn whole_u32(bytes: &[u8]) -> Option<u32> {
    u32::try_from(whole_decimal(bytes)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_to_their_width() {
        assert_eq!(hex(b"ffffffffff600000-"), Some((0xffff_ffff_ff60_0000, &b"-"[..])));
        assert_eq!(hex(b"00000000000000001"), None);
        assert_eq!(hex(b"F"), None);
        assert_eq!(decimal(b"18446744073709551615"), Some((u64::MAX, &b""[..])));
        assert_eq!(decimal(b"18446744073709551616"), None);
        assert_eq!(kilobytes(b"        12 kB"), Some(12 * 1024));
        assert_eq!(kilobytes(b"        12 KB"), None);
        assert_eq!(kilobytes(b"        12"), None);
        assert_eq!(kilobytes(b" 18446744073709551615 kB"), None);
        assert_eq!(padded_decimal(b"    1234"), Some(1234));
        assert_eq!(padded_decimal(b"12345678"), Some(12_345_678));
        assert_eq!(padded_decimal(b"       0"), Some(0));
        for wrong in [b"        ", b"1 234567", b"  12 345", b"    -123", b"   1234 ", b"123\n5678"] {
            assert_eq!(padded_decimal(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_cut_line_is_no_line() {
        let mut lines = Lines::new(b"one\n\ntw");
        assert_eq!(lines.next(), Some(&b"one"[..]));
        assert_eq!(lines.next(), Some(&b""[..]));
        assert_eq!(lines.next(), None);
        assert!(lines.is_cut());
    }
}
