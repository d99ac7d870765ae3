//! Trace file → events. The file is not trusted: lengths are bounded before anything is allocated for them, and memory
//! grows only with bytes that are there.

use super::{Error, FILE_HEADER, FORMAT_VERSION, FRAME_HEADER, FRAME_LIMIT, FRAME_TARGET, MAGIC, WINDOW_LOG, checksum};
use crate::event::Event;
use std::io::Read;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

/// How a trace ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadEnd {
    /// With its end: nothing is missing.
    Complete,
    /// Without: the recording was cut, or goes on.
    Truncated {
        /// Where the last complete frame ends.
        at_byte: u64,
    },
}

/// Reads a trace: an iterator over its events. After an error there are no more.
pub struct Reader<R: Read> {
    source: R,
    decoder: Decoder<'static>,
    compressed: Vec<u8>,
    raw: Vec<u8>,
    /// Next event in `raw`.
    next: usize,
    /// Number of that event.
    index: usize,
    /// Where the current frame begins.
    at_byte: u64,
    /// Where the next one does.
    position: u64,
    end: Option<ReadEnd>,
    failed: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the file's header.
    ///
    /// # Errors
    /// [`Error::NotATrace`], [`Error::CutHeader`], [`Error::NewerVersion`], [`Error::UnknownVersion`], [`Error::Read`].
    pub fn new(mut source: R) -> Result<Self, Error> {
        let mut header = Vec::new();
        read_up_to(&mut source, FILE_HEADER, &mut header)?;
        let magic = &header[..header.len().min(MAGIC.len())];
        if !MAGIC.starts_with(magic) {
            return Err(Error::NotATrace { start: magic.to_vec() });
        }
        let Some(&[low, high]) = header.get(MAGIC.len()..) else {
            return Err(Error::CutHeader { length: header.len() });
        };
        match u16::from_le_bytes([low, high]) {
            FORMAT_VERSION => {}
            version if version > FORMAT_VERSION => return Err(Error::NewerVersion { version }),
            0 => return Err(Error::UnknownVersion { version: 0 }),
            version => return Err(Error::OlderVersion { version }),
        }
        let mut decoder = Decoder::new().map_err(Error::Read)?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).map_err(Error::Read)?;
        Ok(Self {
            source,
            decoder,
            compressed: Vec::new(),
            raw: Vec::new(),
            next: 0,
            index: 0,
            at_byte: 0,
            position: FILE_HEADER as u64,
            end: None,
            failed: false,
        })
    }

    /// How the trace ended; `None` until the last event was taken, and after an error.
    #[must_use]
    pub const fn end(&self) -> Option<ReadEnd> {
        self.end
    }

    /// Reads the next frame. `Ok(false)` when there is none.
    fn read_frame(&mut self) -> Result<bool, Error> {
        self.at_byte = self.position;
        let at_byte = self.at_byte;
        read_up_to(&mut self.source, FRAME_HEADER, &mut self.compressed)?;
        let Ok(header) = <[u8; FRAME_HEADER]>::try_from(self.compressed.as_slice()) else {
            self.end = Some(ReadEnd::Truncated { at_byte });
            return Ok(false);
        };
        let (words, _) = header.as_chunks::<4>();
        let [length, raw_length, crc] = [words[0], words[1], words[2]].map(u32::from_le_bytes);
        let sound = |crc_of: &[u8]| checksum(&header[..8], crc_of) == crc;
        if length == 0 && raw_length == 0 {
            if !sound(&[]) {
                return Err(Error::Checksum { at_byte });
            }
            self.position += FRAME_HEADER as u64;
            read_up_to(&mut self.source, 1, &mut self.compressed)?;
            if !self.compressed.is_empty() {
                return Err(Error::AfterEnd { at_byte: self.position });
            }
            self.end = Some(ReadEnd::Complete);
            return Ok(false);
        }
        let (wanted, raw_wanted) = (length as usize, raw_length as usize);
        if wanted == 0
            || raw_wanted == 0
            || raw_wanted > FRAME_LIMIT
            || wanted > zstd::zstd_safe::compress_bound(FRAME_LIMIT)
        {
            return Err(Error::AbsurdLength { at_byte, length, raw_length });
        }
        read_up_to(&mut self.source, wanted, &mut self.compressed)?;
        if self.compressed.len() < wanted {
            self.end = Some(ReadEnd::Truncated { at_byte });
            return Ok(false);
        }
        if !sound(&self.compressed) {
            return Err(Error::Checksum { at_byte });
        }
        self.raw.clear();
        self.raw.shrink_to(2 * FRAME_TARGET);
        decompress(&mut self.decoder, &self.compressed, raw_wanted, &mut self.raw)
            .ok_or(Error::Compression { at_byte })?;
        self.compressed.clear();
        self.compressed.shrink_to(FRAME_TARGET);
        self.position += FRAME_HEADER as u64 + u64::from(length);
        (self.next, self.index) = (0, 0);
        Ok(true)
    }

    fn read_event(&mut self) -> Result<Option<Event>, Error> {
        if self.next == self.raw.len() && !self.read_frame()? {
            return Ok(None);
        }
        let undecodable = Error::Event { at_byte: self.at_byte, index: self.index };
        let Ok((event, rest)) = postcard::take_from_bytes(&self.raw[self.next..]) else {
            return Err(undecodable);
        };
        self.next = self.raw.len() - rest.len();
        self.index += 1;
        Ok(Some(event))
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Event, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.end.is_some() {
            return None;
        }
        let result = self.read_event();
        self.failed = result.is_err();
        result.transpose()
    }
}

impl<R: Read> std::iter::FusedIterator for Reader<R> {}

/// Fills `buffer` with so many bytes, fewer where the file ends.
fn read_up_to(source: &mut impl Read, bytes: usize, buffer: &mut Vec<u8>) -> Result<(), Error> {
    buffer.clear();
    source.take(bytes as u64).read_to_end(buffer).map(drop).map_err(Error::Read)
}

/// Appends what `compressed` holds to `raw`; `None` unless it is exactly `wanted` bytes.
fn decompress(decoder: &mut Decoder<'_>, compressed: &[u8], wanted: usize, raw: &mut Vec<u8>) -> Option<()> {
    const STEP: usize = 256 << 10;
    let mut input = InBuffer::around(compressed);
    loop {
        let (before, consumed) = (raw.len(), input.pos());
        // One byte of room more than wanted, so that too much is noticed.
        raw.reserve(STEP.min(wanted + 1 - before));
        let mut output = OutBuffer::around_pos(raw, before);
        decoder.run(&mut input, &mut output).ok()?;
        if raw.len() > wanted {
            return None;
        }
        if raw.len() == before && input.pos() == consumed {
            break;
        }
    }
    (input.pos() == compressed.len() && raw.len() == wanted).then_some(())
}
