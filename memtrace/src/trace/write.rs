//! Events → trace file.

use super::{Error, FORMAT_VERSION, FRAME_HEADER, FRAME_LIMIT, FRAME_TARGET, MAGIC, WINDOW_LOG, checksum};
use crate::event::Event;
use std::io::{self, Write};
use zstd::stream::raw::{CParameter, Encoder, InBuffer, Operation, OutBuffer};

/// zstd's default. Higher levels gain little on these events and cost the observed machine more.
const LEVEL: i32 = 3;

/// Writes a trace. Dropped without [`Self::finish`], it leaves a trace that reads as truncated after the last frame.
pub struct Writer<W: Write> {
    sink: W,
    encoder: Encoder<'static>,
    raw: Vec<u8>,
    frame: Vec<u8>,
    written: u64,
    limit: usize,
    stopped: bool,
}

impl<W: Write> Writer<W> {
    /// Writes the file's header. Each frame is one write and a flush: no buffer is wanted below.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn new(sink: W) -> Result<Self, Error> {
        Self::with_limit(sink, FRAME_LIMIT)
    }

    /// With another size that no frame may exceed.
    pub(super) fn with_limit(mut sink: W, limit: usize) -> Result<Self, Error> {
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        sink.write_all(&header).and_then(|()| sink.flush()).map_err(Error::Write)?;
        let mut encoder = Encoder::new(LEVEL).map_err(Error::Write)?;
        encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG)).map_err(Error::Write)?;
        Ok(Self {
            sink,
            encoder,
            raw: Vec::new(),
            frame: Vec::new(),
            written: header.len() as u64,
            limit,
            stopped: false,
        })
    }

    /// Adds an event to the current frame, and writes the frame when it holds a mebibyte.
    ///
    /// # Errors
    /// [`Error::EventTooLarge`]: the event is left out and the trace goes on. [`Error::Write`]: the trace ends here.
    pub fn push(&mut self, event: &Event) -> Result<(), Error> {
        if self.stopped {
            return Err(Error::Stopped);
        }
        let begin = self.raw.len();
        postcard::to_io(event, &mut self.raw).map_err(|error| Error::Write(io::Error::other(error)))?;
        let bytes = self.raw.len() - begin;
        if bytes > self.limit {
            self.raw.truncate(begin);
            return Err(Error::EventTooLarge { bytes });
        }
        if self.raw.len() > self.limit {
            self.write_frame(begin)?;
        }
        if self.raw.len() > FRAME_TARGET { self.end_frame() } else { Ok(()) }
    }

    /// Writes what has gathered; to be called at each tick. Nothing is written when nothing has.
    ///
    /// # Errors
    /// [`Error::Write`], and [`Error::Stopped`] after that.
    pub fn end_frame(&mut self) -> Result<(), Error> {
        self.write_frame(self.raw.len())
    }

    /// Writes the last frame and the end, by which a reader knows that nothing is missing.
    ///
    /// # Errors
    /// [`Error::Write`], and [`Error::Stopped`] after that.
    pub fn finish(mut self) -> Result<W, Error> {
        self.end_frame()?;
        let lengths = [0; 8];
        self.frame.clear();
        self.frame.extend_from_slice(&lengths);
        self.frame.extend_from_slice(&checksum(&lengths, &[]).to_le_bytes());
        self.write_out()?;
        Ok(self.sink)
    }

    /// Bytes written so far.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Writes the first bytes of what has gathered as a frame.
    fn write_frame(&mut self, raw_length: usize) -> Result<(), Error> {
        if self.stopped {
            return Err(Error::Stopped);
        }
        if raw_length == 0 {
            return Ok(());
        }
        self.frame.clear();
        self.frame.resize(FRAME_HEADER, 0);
        // From here on the encoder's history holds this frame: if it does not reach the file, no later one may.
        self.stopped = true;
        compress(&mut self.encoder, &self.raw[..raw_length], &mut self.frame).map_err(Error::Write)?;
        let (header, compressed) = self.frame.split_at_mut(FRAME_HEADER);
        header[..4].copy_from_slice(&length(compressed.len())?.to_le_bytes());
        header[4..8].copy_from_slice(&length(raw_length)?.to_le_bytes());
        let crc = checksum(&header[..8], compressed);
        header[8..].copy_from_slice(&crc.to_le_bytes());
        self.write_out()?;
        self.raw.drain(..raw_length);
        // A rare large frame (a reading of smaps) is no reason to keep its memory for the session.
        self.raw.shrink_to(2 * FRAME_TARGET);
        self.frame.shrink_to(FRAME_TARGET);
        Ok(())
    }

    fn write_out(&mut self) -> Result<(), Error> {
        self.stopped = true;
        self.sink.write_all(&self.frame).and_then(|()| self.sink.flush()).map_err(Error::Write)?;
        self.stopped = false;
        self.written += self.frame.len() as u64;
        Ok(())
    }
}

fn length(length: usize) -> Result<u32, Error> {
    u32::try_from(length).map_err(|error| Error::Write(io::Error::other(error)))
}

/// Appends `raw`, compressed and flushed, to `frame`.
pub(super) fn compress(encoder: &mut Encoder<'_>, raw: &[u8], frame: &mut Vec<u8>) -> io::Result<()> {
    let mut input = InBuffer::around(raw);
    loop {
        frame.reserve(raw.len() / 4 + 1024);
        let begin = frame.len();
        let mut output = OutBuffer::around_pos(frame, begin);
        let left = if input.pos() < raw.len() {
            encoder.run(&mut input, &mut output)?;
            1
        } else {
            encoder.flush(&mut output)?
        };
        if left == 0 {
            return Ok(());
        }
    }
}
