//! A PostgreSQL backend made by hand, and what is made of broken ones.

use super::postgres::{Names, Refusal, Status};
use super::{Memory, Postgres, Program, Server, Unread, mysql_version, read_text};
use crate::stacks::Bytes;
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::BTreeMap;

/// Memory by address; everything else is absent. The word at `.1` grows with each read of it by `.2`.
#[derive(Default)]
struct Fake(BTreeMap<u64, u8>, u64, Cell<u32>, u32);

impl Fake {
    fn put(&mut self, address: u64, bytes: &[u8]) {
        self.0.extend((address..).zip(bytes.iter().copied()));
    }
}

impl Memory for Fake {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Unread> {
        for (at, byte) in into.iter_mut().enumerate() {
            let at = address.wrapping_add(at as u64);
            *byte = *self.0.get(&at).ok_or(Unread(address))?;
        }
        if self.3 > 0 && address == self.1 {
            self.2.set(self.2.get() + self.3);
            into[..4].copy_from_slice(&self.2.get().to_le_bytes());
        }
        Ok(())
    }
}

const EXPORTS: [&str; 10] = [
    "MyBEEntry",
    "my_wait_event_info",
    "MyProcPid",
    "PostmasterPid",
    "MyBackendType",
    "MyStartTimestamp",
    "MyBgworkerEntry",
    "debug_query_string",
    "pgstat_track_activity_query_size",
    "MyProc",
];
const BIAS: u64 = 0x5555_0000_0000;
const ENTRY: u64 = 0x7f00_0000_0000;
const TEXT: u64 = 0x7f00_0001_0ff0;
const WHOLE: u64 = 0x6666_0000_0000;

/// Address of the n-th export, as the file has it.
fn address(name: &str) -> u64 {
    0x1000 + 0x10 * EXPORTS.iter().position(|export| *export == name).expect("one of them") as u64
}

/// An executable that exports `names`, with a text in its constants.
fn program(names: &[&str], constants: &[u8]) -> Vec<u8> {
    let mut strings = vec![0];
    let mut symbols = vec![0; 24];
    for name in names {
        symbols.extend((strings.len() as u32).to_le_bytes());
        symbols.extend([1, 0, 1, 0]);
        let value = EXPORTS.iter().position(|export| export == name).map_or(0x9000, |at| 0x1000 + 0x10 * at as u64);
        symbols.extend(value.to_le_bytes());
        symbols.extend(8_u64.to_le_bytes());
        strings.extend(name.bytes().chain([0]));
    }
    let (segment, first, second, third) = (64, 64 + 56, 64 + 56 + 64, 64 + 56 + 128);
    let data = third + 64;
    let mut file = vec![0_u8; data];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[3, 0, 62, 0, 1]);
    put(24, &0x40_u64.to_le_bytes());
    put(32, &(segment as u64).to_le_bytes());
    put(40, &(first as u64).to_le_bytes());
    put(52, &[64, 0, 56, 0, 1, 0, 64, 0, 3, 0]);
    let (symbols_at, strings_at) = (data, data + symbols.len());
    let constants_at = strings_at + strings.len();
    put(segment, &[1, 0, 0, 0, 4]);
    put(segment + 8, &(constants_at as u64).to_le_bytes());
    put(segment + 32, &(constants.len() as u64).to_le_bytes());
    for (at, kind, link, offset, size) in
        [(second, 11_u32, 2_u32, symbols_at, symbols.len()), (third, 3, 0, strings_at, strings.len())]
    {
        put(at + 4, &kind.to_le_bytes());
        put(at + 24, &(offset as u64).to_le_bytes());
        put(at + 32, &(size as u64).to_le_bytes());
        put(at + 40, &link.to_le_bytes());
    }
    file.extend(symbols.into_iter().chain(strings).chain(constants.iter().copied()));
    file
}

fn recognise(names: &[&str], constants: &[u8], data: Option<&[u8]>) -> Option<Server> {
    let program = Program::read(Bytes::Memory(program(names, constants)))?;
    Server::recognise(&program, data).map(|server| server.loaded_at(BIAS))
}

fn all() -> Vec<&'static str> {
    EXPORTS.into_iter().chain(["pgstat_report_activity"]).collect()
}

fn server(data: &[u8]) -> Result<Postgres, Refusal> {
    match recognise(&all(), b"\0postgres (PostgreSQL) 15.4 (Debian)\n\0", Some(data)) {
        Some(Server::Postgres(postgres)) => postgres,
        other => panic!("{other:?}"),
    }
}

/// A client backend, process 7 in its own namespace, that runs a statement longer than its row has room for.
fn backend() -> Fake {
    let mut fake = Fake::default();
    let variable = |name| BIAS + address(name);
    fake.put(variable("MyBEEntry"), &ENTRY.to_le_bytes());
    fake.put(variable("MyProcPid"), &7_u32.to_le_bytes());
    fake.put(variable("PostmasterPid"), &1_u32.to_le_bytes());
    fake.put(variable("MyBackendType"), &3_u32.to_le_bytes());
    fake.put(variable("MyStartTimestamp"), &1000_u64.to_le_bytes());
    fake.put(variable("MyBgworkerEntry"), &0_u64.to_le_bytes());
    fake.put(variable("debug_query_string"), &WHOLE.to_le_bytes());
    fake.put(variable("pgstat_track_activity_query_size"), &22_u32.to_le_bytes());
    fake.put(variable("my_wait_event_info"), &(ENTRY + 512).to_le_bytes());
    fake.put(ENTRY + 512, &0x0300_0005_u32.to_le_bytes());
    fake.put(ENTRY, &[0; 256]);
    for (offset, word) in [(0, 4_u32), (4, 7), (8, 3), (232, 2)] {
        fake.put(ENTRY + offset, &word.to_le_bytes());
    }
    for (offset, word) in [(16, 1000_u64), (24, 2_000_000), (32, 3_000_000), (248, TEXT)] {
        fake.put(ENTRY + offset, &word.to_le_bytes());
    }
    // 21 bytes, the last of which is half a letter; its second page begins within.
    fake.put(TEXT, "update t set text = 'ä".as_bytes().split_last().expect("not empty").1);
    fake.put(TEXT + 21, &[0]);
    fake.put(WHOLE, "update t set text = 'äß' where id = 1\0".as_bytes());
    fake.put(WHOLE + 39, &[0; 4096]);
    fake
}

#[test]
fn a_backend_is_read_as_its_view_prints_it() {
    let postgres = server(b"15\n").expect("15");
    let status = postgres.read_status(&backend(), 7).expect("a status");
    let second = 1_000_000_000;
    assert_eq!(
        status,
        Status {
            backend_type: Some("client backend".to_owned()),
            state: Some("active"),
            query: Some("update t set text = 'äß' where id = 1".into()),
            query_start_ns: Some((946_684_800 + 3) * second),
            transaction_start_ns: Some((946_684_800 + 2) * second),
            started_ns: Some(946_684_800 * second + 1_000_000),
            work_mem: None,
        }
    );
    let wait = postgres.read_wait(&backend(), 7).expect("a number");
    assert_eq!(wait, Some(("Lock".to_owned(), "transactionid".to_owned())));
}

#[test]
fn a_setting_is_read_where_it_is_exported() {
    let names: Vec<&str> = all().into_iter().chain(["work_mem"]).collect();
    let Some(Server::Postgres(Ok(postgres))) = recognise(&names, b"", Some(b"15\n")) else { panic!("it is 15") };
    for (kilobytes, expected) in [(4096_i32, Some(4 << 20)), (i32::MAX, Some((i32::MAX as u64) << 10)), (-1, None)] {
        let mut fake = backend();
        // What is exported beyond those above.
        fake.put(BIAS + 0x9000, &kilobytes.to_le_bytes());
        assert_eq!(postgres.read_status(&fake, 7).expect("a status").work_mem, expected);
    }
    // Absent, it costs nothing else.
    assert_eq!(postgres.read_status(&backend(), 7).expect("a status").work_mem, None);
}

#[test]
fn a_text_that_was_cut_is_whole_letters() {
    let mut fake = backend();
    fake.put(BIAS + address("debug_query_string"), &0_u64.to_le_bytes());
    let status = server(b"15\n").expect("15").read_status(&fake, 7).expect("a status");
    assert_eq!(status.query.as_deref(), Some(b"update t set text = '".as_slice()));
    // Another statement's text is not this one's.
    let mut fake = backend();
    fake.put(WHOLE, b"select 1\0");
    let status = server(b"15\n").expect("15").read_status(&fake, 7).expect("a status");
    assert_eq!(status.query.as_deref(), Some(b"update t set text = '".as_slice()));
}

#[test]
fn what_does_not_fit_is_refused_with_the_reason() {
    let said = |change: &dyn Fn(&mut Fake)| {
        let mut fake = backend();
        change(&mut fake);
        server(b"15\n").expect("15").read_status(&fake, 7).expect_err("refused").to_string()
    };
    assert_eq!(said(&|fake| fake.put(ENTRY + 4, &[8])), "the layout does not fit: st_procpid is 8 instead of 7");
    assert_eq!(
        said(&|fake| fake.put(ENTRY + 16, &[9])),
        "the layout does not fit: st_proc_start_timestamp is 777 instead of 1000"
    );
    assert_eq!(said(&|fake| fake.put(ENTRY + 232, &[99])), "the layout does not fit: st_state is 99");
    assert_eq!(said(&|fake| fake.put(ENTRY, &[5])), Refusal::Changing.to_string());
    assert_eq!(
        said(&|fake| {
            fake.1 = ENTRY;
            fake.3 = 2;
        }),
        Refusal::Changing.to_string()
    );
    assert_eq!(
        said(&|fake| drop(fake.0.split_off(&(ENTRY + 100)))),
        format!("what lies at {ENTRY:#x} is not in memory")
    );
}

#[test]
fn versions_agree_or_nothing_is_read() {
    assert_eq!(server(b"15\n").map(|postgres| postgres.version()), Ok(15));
    assert_eq!(server(b"14\n"), Err(Refusal::Disagree { program: 15, data: 14 }));
    let of = |constants: &[u8], data| match recognise(&all(), constants, data) {
        Some(Server::Postgres(postgres)) => postgres.map(|postgres| postgres.version()),
        other => panic!("{other:?}"),
    };
    assert_eq!(of(b"", Some(b"16\n")), Ok(16));
    assert_eq!(of(b"postgres (PostgreSQL) 12.1\n", None), Err(Refusal::Version(12)));
    assert_eq!(of(b"postgres (PostgreSQL) 19devel\n", None), Err(Refusal::Version(19)));
    assert_eq!(of(b"", Some(b"\xff\xff")), Err(Refusal::NoVersion));
    let mut names = all();
    names.retain(|name| *name != "MyStartTimestamp");
    assert_eq!(recognise(&names, b"", Some(b"15")), Some(Server::Postgres(Err(Refusal::Symbol("MyStartTimestamp")))));
}

#[test]
fn other_programs_are_told_apart() {
    assert_eq!(recognise(&["main", "MyProcPid"], b"postgres (PostgreSQL) 15.4\n", Some(b"15")), None);
    assert_eq!(recognise(&["mysqld_port", "server_version"], b"", None), Some(Server::Mysql(BIAS + 0x9000)));
    assert_eq!(mysql_version(b"10.11.6-MariaDB-0+deb12u1"), ("mariadb", Some(10)));
    assert_eq!(mysql_version(b"8.4.2"), ("mysql", Some(8)));
    assert_eq!(mysql_version(b"\xff"), ("mysql", None));
}

#[test]
fn numbers_without_a_name_are_printed_as_they_are() {
    let names = Names::of(17).expect("17");
    let wait = |number| names.wait_event(number).map(|(class, name)| format!("{class}/{name}"));
    assert_eq!(wait(0), None);
    assert_eq!(wait(0x0600_0000).as_deref(), Some("Client/ClientRead"));
    assert_eq!(wait(0x0100_000a).as_deref(), Some("LWLock/10"));
    assert_eq!(wait(0x0100_1234).as_deref(), Some("LWLock/4660"));
    assert_eq!(wait(0x0b00_0001).as_deref(), Some("InjectionPoint/1"));
    assert_eq!(wait(0xff00_0002).as_deref(), Some("0xff/2"));
    assert_eq!(names.backend(1), Some("client backend"));
    assert_eq!(names.backend(16), None);
    assert!(Names::of(12).is_none() && Names::of(19).is_none());
}

#[test]
fn a_text_ends_where_its_memory_does() {
    let mut fake = Fake::default();
    fake.put(4096 - 3, b"abc");
    assert_eq!(read_text(&fake, 4096 - 3, 100), Ok(b"abc".to_vec()));
    assert_eq!(read_text(&fake, 4096, 100), Err(Unread(4096)));
    assert_eq!(read_text(&fake, u64::MAX, 100), Err(Unread(u64::MAX)));
    assert_eq!(read_text(&fake, 4096 - 3, 2), Ok(b"ab".to_vec()));
}

proptest! {
    #[test]
    fn no_bytes_of_a_backend_end_us(changes in prop::collection::vec((0_u64..600, any::<u8>()), 0..40), pid: u32) {
        let mut fake = backend();
        for (at, byte) in changes {
            let base = if at < 256 { ENTRY } else { BIAS + 0x1000 - 256 };
            fake.put(base + at, &[byte]);
        }
        let postgres = server(b"15\n").expect("15");
        let _ = postgres.read_status(&fake, pid);
        let _ = postgres.read_status(&fake, 7);
        let _ = postgres.read_wait(&fake, 7);
    }

    #[test]
    fn no_bytes_of_a_program_end_us(changes in prop::collection::vec((0_usize..900, any::<u8>()), 0..20), cut in 0_usize..1200) {
        let mut names = all();
        names.retain(|name| *name != "MyBEEntry");
        let mut file = program(&names, b"postgres (PostgreSQL) 13.4\n");
        for (at, byte) in changes {
            if let Some(place) = file.get_mut(at) {
                *place = byte;
            }
        }
        file.truncate(cut.max(64));
        if let Some(program) = Program::read(Bytes::Memory(file)) {
            let _ = Server::recognise(&program, None);
        }
    }
}
