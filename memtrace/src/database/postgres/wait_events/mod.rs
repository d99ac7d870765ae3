//! Names that PostgreSQL gives to numbers in its memory: wait events, states and types of backends, by major version.
//!
//! A number that a version has no name for is one of an extension, or of a later minor version: it is printed as it is.

mod v13;
mod v14;
mod v15;
mod v16;
mod v17;
mod v18;

/// One version's names. In each list a name's place is its number; `-` stands where a number has none. Names of backends
/// have blanks in them and are separated by commas.
#[derive(Debug)]
pub struct Names {
    backends: &'static str,
    lwlock: &'static str,
    lock: &'static str,
    buffer_pin: &'static str,
    activity: &'static str,
    client: &'static str,
    extension: &'static str,
    ipc: &'static str,
    timeout: &'static str,
    io: &'static str,
}

impl Names {
    /// Those of a major version; `None` for one whose names are not known.
    #[must_use]
    pub const fn of(version: u32) -> Option<&'static Self> {
        match version {
            13 => Some(&v13::NAMES),
            14 => Some(&v14::NAMES),
            15 => Some(&v15::NAMES),
            16 => Some(&v16::NAMES),
            17 => Some(&v17::NAMES),
            18 => Some(&v18::NAMES),
            _ => None,
        }
    }

    /// A type of backends, as `pg_stat_activity` prints it; `None` for a number that is none.
    #[must_use]
    pub fn backend(&self, number: u32) -> Option<&'static str> {
        self.backends.split(", ").nth(usize::try_from(number).ok()?)
    }

    /// Type and name of a wait event from its number, as `pg_stat_activity` prints them; `None` for no wait.
    #[must_use]
    pub fn wait_event(&self, number: u32) -> Option<(String, String)> {
        if number == 0 {
            return None;
        }
        let (class, id) = (number >> 24, number & 0xff_ffff);
        let (class, names) = match class {
            0x01 => ("LWLock", self.lwlock),
            0x03 => ("Lock", self.lock),
            0x04 => ("BufferPin", self.buffer_pin),
            0x05 => ("Activity", self.activity),
            0x06 => ("Client", self.client),
            0x07 => ("Extension", self.extension),
            0x08 => ("IPC", self.ipc),
            0x09 => ("Timeout", self.timeout),
            0x0a => ("IO", self.io),
            0x0b => ("InjectionPoint", ""),
            _ => return Some((format!("{class:#04x}"), id.to_string())),
        };
        let name = names.split(' ').nth(id as usize).filter(|name| !matches!(*name, "" | "-"));
        Some((class.to_owned(), name.map_or_else(|| id.to_string(), str::to_owned)))
    }
}
