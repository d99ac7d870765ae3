//! `--no-bpf` on processes of our own. No probes, no privileges.

use memtrace::procfs::{ProcessFiles, Statm, page_size};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};

const PAGES: usize = 3000;

/// A process that stands still, touches [`PAGES`] pages when told, and stands still again.
struct Subject(libc::pid_t);

impl Subject {
    fn start() -> Self {
        let page = page_size() as usize;
        // SAFETY: a new private mapping; the child calls only raise, munmap and _exit and writes into the mapping, which
        // a fork of a process with threads may do.
        let child = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let region = libc::mmap(std::ptr::null_mut(), PAGES * page, access, flags, -1, 0);
            assert!(region != libc::MAP_FAILED);
            libc::madvise(region, PAGES * page, libc::MADV_NOHUGEPAGE);
            let child = libc::fork();
            if child == 0 {
                libc::raise(libc::SIGSTOP);
                for n in 0..PAGES {
                    region.cast::<u8>().add(n * page).write_volatile(1);
                }
                libc::raise(libc::SIGSTOP);
                libc::munmap(region, PAGES * page);
                libc::raise(libc::SIGSTOP);
                libc::_exit(0);
            }
            libc::munmap(region, PAGES * page);
            child
        };
        assert!(child > 0);
        let subject = Self(child);
        subject.wait_for_stop();
        subject
    }

    fn wait_for_stop(&self) {
        let mut status = 0;
        // SAFETY: `status` is a valid place for an int; the child is not reaped before `drop`.
        let waited = unsafe { libc::waitpid(self.0, &raw mut status, libc::WUNTRACED) };
        assert!(waited == self.0 && libc::WIFSTOPPED(status), "{status:#x}");
    }

    fn go_on(&self) {
        self.signal(libc::SIGCONT);
        self.wait_for_stop();
    }

    fn signal(&self, signal: i32) {
        // SAFETY: the child is not reaped before `drop`, so the number is its own.
        assert_eq!(unsafe { libc::kill(self.0, signal) }, 0);
    }

    fn statm(&self) -> Statm {
        ProcessFiles::open(self.0 as u32).unwrap().read_statm().unwrap()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // SAFETY: as in `signal`; it is reaped here.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

/// memtrace, its lines read as they come.
struct Tool {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    seen: Vec<Value>,
}

impl Tool {
    fn start(arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_memtrace"))
            .args(["--no-bpf", "--json", "--interval", "10ms"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program was built");
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut tool = Self { process, lines, seen: Vec::new() };
        tool.wait_for(|line| line["type"] == "meta");
        tool
    }

    fn watch(subject: &Subject, arguments: &[&str]) -> Self {
        let pid = subject.0.to_string();
        Self::start(&[&["--pid", &pid], arguments].concat())
    }

    /// Reads on to a line; the end of the output is a failure.
    fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> &Value {
        loop {
            let line = self.lines.next().expect("the line comes before the end").unwrap();
            self.seen.push(serde_json::from_str(&line).unwrap());
            if wanted(self.seen.last().unwrap()) {
                return self.seen.last().unwrap();
            }
        }
    }

    /// Everything, when it has ended; with its status.
    fn finish(mut self) -> (Vec<Value>, i32) {
        self.wait_for(|line| line["type"] == "end");
        let code = self.process.wait().unwrap().code().unwrap();
        (self.seen, code)
    }

    fn interrupt(self) -> Vec<Value> {
        // SAFETY: our child, not reaped before `finish`.
        assert_eq!(unsafe { libc::kill(self.process.id() as i32, libc::SIGINT) }, 0);
        let (lines, code) = self.finish();
        assert_eq!(code, 0);
        lines
    }
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// closing − opening = unexplained in every line that has them, and the statements add up to the end.
fn the_books_close(lines: &[Value]) {
    for class in ["anon", "file", "shmem", "swap"] {
        let mut sum = 0;
        for line in lines {
            let of = |field: &str| number(&line[field][class]);
            match line["type"].as_str().unwrap() {
                "statement" => {
                    assert_eq!(line["entries"], Value::Array(Vec::new()));
                    assert_eq!(of("closing") - of("opening"), of("unexplained"), "{line}");
                    sum += of("unexplained");
                }
                "closing" | "end" => {
                    assert_eq!(of("closing") - of("opening"), of("unexplained"), "{line}");
                    assert_eq!(of("unexplained"), sum, "{line}");
                    assert_eq!(line["by_cause"].as_object().unwrap().len(), 0);
                }
                _ => {}
            }
        }
    }
}

#[test]
fn known_pages_between_two_readings_are_the_whole_difference() {
    let subject = Subject::start();
    let before = subject.statm();
    let tool = Tool::watch(&subject, &["--smaps-interval", "0"]);
    subject.go_on();
    let after = subject.statm();
    assert!(after.resident - before.resident >= PAGES as u64);
    let lines = tool.interrupt();

    assert_eq!((&lines[0]["mode"], &lines[0]["mode_reason"]), (&"procfs".into(), &"--no-bpf was given".into()));
    the_books_close(&lines);
    let end = lines.last().unwrap();
    let bytes = |pages: u64| pages * page_size();
    for (balance, statm) in [("opening", before), ("closing", after)] {
        assert_eq!(end[balance]["res"], bytes(statm.resident), "{balance}");
        assert_eq!(end[balance]["anon"], bytes(statm.resident - statm.shared), "{balance}");
        assert_eq!(end[balance]["virt"], bytes(statm.virt), "{balance}");
    }
    assert!(number(&end["unexplained"]["anon"]) >= bytes(PAGES as u64) as i64);
    assert_eq!(end["lost"]["total"], 0);
}

#[test]
fn an_audit_names_the_mapping_that_grew() {
    let subject = Subject::start();
    let mut tool = Tool::watch(&subject, &["--smaps-interval", "20ms"]);
    let agrees = |audit: &Value| {
        let sum: i64 = ["anon", "file", "shmem"].iter().map(|class| number(&audit["status"][class])).sum();
        assert_eq!(number(&audit["smaps_rss"]), sum, "{audit}");
        assert_eq!((&audit["quiet"], &audit["ledger"]), (&true.into(), &audit["status"]));
    };
    agrees(tool.wait_for(|line| line["type"] == "audit"));
    subject.go_on();
    let touched = (PAGES as u64 * page_size()) as i64;
    // A reading may fall into the touching; then the growth is split over two.
    let mut grown = 0;
    while grown < touched {
        let audit = tool.wait_for(|line| line["type"] == "audit" && line["differing_count"] != 0);
        let region = audit["differing"].as_array().unwrap().iter().filter(|d| d["mapping"]["kind"] == "anon");
        grown += region.map(|difference| number(&difference["smaps"])).filter(|n| *n > 0).sum::<i64>();
    }
    agrees(tool.wait_for(|line| line["type"] == "audit" && line["differing_count"] == 0));
    subject.go_on();
    let audit = tool.wait_for(|line| {
        line["type"] == "audit" && line["differing"].as_array().unwrap().iter().any(|d| number(&d["smaps"]) <= -touched)
    });
    assert_eq!(audit["differing"][0]["ledger"], 0);
    the_books_close(&tool.interrupt());
}

#[test]
fn the_targets_end_closes_the_books_at_zero() {
    let subject = Subject::start();
    let tool = Tool::watch(&subject, &[]);
    subject.signal(libc::SIGKILL);
    let (lines, code) = tool.finish();
    assert_eq!(code, 0);
    the_books_close(&lines);
    let end = lines.last().unwrap();
    assert_eq!((&end["reason"], &end["closing"]["res"]), (&"exited".into(), &0.into()));
    assert!(number(&end["opening"]["res"]) > 0);
}

#[test]
fn a_command_passes_its_status_through_and_its_exec_is_told() {
    let mut tool = Tool::start(&["--", "sh", "-c", "read line; exec sh -c 'read line; exit 7'"]);
    let mut stdin = tool.process.stdin.take().unwrap();
    stdin.write_all(b"\n").unwrap();
    stdin.flush().unwrap();
    tool.wait_for(|line| line["type"] == "process" && line["what"] == "exec");
    stdin.write_all(b"\n").unwrap();
    drop(stdin);
    let (lines, code) = tool.finish();
    assert_eq!(code, 7);
    the_books_close(&lines);
    let end = lines.last().unwrap();
    assert_eq!((&end["reason"], &end["exit"]["status"]), (&"exited".into(), &7.into()));
}

#[test]
fn children_cannot_be_followed_without_probes() {
    let output = Command::new(env!("CARGO_BIN_EXE_memtrace"))
        .args(["--no-bpf", "--follow", "--pid", "1"])
        .output()
        .expect("the program was built");
    assert_eq!(output.status.code(), Some(2));
}
