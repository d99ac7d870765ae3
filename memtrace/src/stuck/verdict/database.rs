//! What a database server's own word adds to a verdict: what its backend waits for and behind whom, in the words of its
//! people, the facts about its statement, and what to ask it next.

use super::{Case, Finding, NAME, is_most, percent, phrase, portion, since};
use crate::event::{Backend, Blocker, WaitObject};
use crate::stuck::State;
use crate::views::human::{counted, duration, size};
use crate::views::{escape, shell_word};
use std::cmp::Reverse;

/// Longest statement, of the backend itself and of who blocks it.
const QUERY: usize = 300;
const BLOCKING: usize = 120;
/// Blockers that are told.
const BLOCKERS: usize = 3;
/// An answer of the server that is older than this is told as what was.
const FRESH_NS: u64 = 2_000_000_000;
/// Longest connection string.
const DSN: usize = 1000;
/// Longest reason why the server was not to be asked.
const REASON: usize = 200;

/// A server's own word for what its backend waits for, where that is another's doing and not a device.
pub(super) fn database(case: &Case<'_>) -> Option<Finding> {
    let backend = case.stuck.backend.as_ref()?;
    let top = case.top()?;
    if !matches!(top.state, State::BlockedPoll | State::BlockedSemaphore | State::BlockedFutex | State::BlockedSocket) {
        return None;
    }
    let (kind, event) = waits_for(backend)?;
    let server = phrase::server(&backend.server);
    let name = format!("{}/{}", escape(kind.as_bytes(), NAME), escape(event.as_bytes(), 2 * NAME));
    let named = match meaning(kind, event) {
        Some(meaning) => format!("{meaning} ({server}'s {name})"),
        None => format!("{server}'s {name}"),
    };
    let what = match kind {
        "Lock" => match behind(case, backend) {
            None => format!("waiting for {named}"),
            Some(who) if is_held(backend) => format!("behind {who}, waiting for {named}"),
            Some(who) if !backend.in_lock => format!("waiting for {named}; it was blocked by {who}, which is over"),
            Some(who) => format!("waiting for {named}; it was blocked by {who} when its server last said so"),
        },
        "LWLock" => match meaning(kind, event) {
            Some(meaning) => format!("waiting for one of {server}'s internal locks, on {meaning} ({name})"),
            None => format!("waiting for one of {server}'s internal locks ({name})"),
        },
        "Client" if event == "ClientRead" => match backend.state.as_deref() {
            Some(state) if state.starts_with("idle in transaction") => {
                "waiting for its client in the middle of a transaction, whose locks it holds".to_owned()
            }
            _ => "with nothing to do: waiting for its client's next statement".to_owned(),
        },
        "Client" => format!("waiting for {named}"),
        "Activity" => format!("with nothing to do: {name}"),
        "Timeout" => format!("asleep: {named}"),
        _ => format!("waiting for {named}"),
    };
    let sentence = format!("Blocked {}{} {what}", portion(case, top.state, 1), since(case, top.state));
    let next = ask(case, backend, kind, event);
    Some(Finding { state: Some(top.state), memory: Some(false), sentence, next, ..Finding::default() })
}

/// The wait that most of its looks at a wait were of: type and name. Where several of one type are, the first of these.
fn waits_for(backend: &Backend) -> Option<(&str, &str)> {
    let mut kinds: Vec<(&str, &str, u64)> = Vec::new();
    let mut seen = 0_u64;
    for (wait, times) in &backend.waits {
        // Between its waits it runs, and that is not what keeps it.
        let Some((kind, event)) = wait else { continue };
        seen = seen.saturating_add(*times);
        match kinds.iter_mut().find(|(known, ..)| known == kind) {
            Some((.., sum)) => *sum = sum.saturating_add(*times),
            None => kinds.push((kind, event, *times)),
        }
    }
    let (kind, event, times) = kinds.into_iter().max_by_key(|(.., times)| *times)?;
    is_most(times, seen).then_some((kind, event))
}

/// What an event means, to follow "waiting for"; of internal locks, what they are on.
fn meaning(kind: &str, event: &str) -> Option<&'static str> {
    Some(match (kind, event) {
        ("Lock", "relation") => "a lock on a table or an index",
        ("Lock", "extend") => "its turn to enlarge a table or an index",
        ("Lock", "tuple") => "its turn for a row that others wait for as well",
        ("Lock", "transactionid") => "the end of a transaction that changed the same row",
        ("Lock", "virtualxid") => "the end of a transaction that may still look at the table",
        ("Lock", "spectoken") => "another's insertion of the same key",
        ("Lock", "object") => "a lock on something that is not a table",
        ("Lock", "advisory" | "userlock") => "an advisory lock, which applications take themselves",
        ("LWLock", "WALWrite") => "the writing of its log to disk",
        ("LWLock", "WALInsert") => "places in its log, to which many write",
        ("LWLock", "WALBufMapping") => "free pages in the buffers of its log",
        ("LWLock", "BufferContent") => "a page that others read in or change",
        ("LWLock", "BufferMapping") => "the table of what is in shared_buffers",
        ("LWLock", "LockManager") => "the table of locks",
        ("LWLock", "ProcArray") => "the list of running transactions",
        ("LWLock", "XidGen") => "the numbers of new transactions",
        ("LWLock", "XactSLRU" | "XactBuffer" | "SubtransSLRU" | "SubtransBuffer") => "how transactions ended",
        ("BufferPin", _) => "a page that another backend still looks at",
        ("Client", "ClientWrite") => "its client to take what it is sent",
        ("IPC", "ExecuteGather" | "ParallelFinish" | "MessageQueueReceive") => "its parallel workers",
        ("IPC", "SyncRep") => "a standby that must confirm the commit",
        ("Timeout", "PgSleep") => "its statement asked for that",
        _ => return None,
    })
}

/// Those that are looked at: no server tells of more.
const BLOCKERS_MAX: usize = 64;

/// What the server said in this window, or just before it.
fn blockers<'a>(case: &Case<'_>, backend: &'a Backend) -> Option<&'a [Blocker]> {
    let is_older = |asked: u64| asked.saturating_add(FRESH_NS) < case.stuck.start_ns;
    if backend.asked_ns.is_none_or(is_older) {
        return None;
    }
    let blockers = backend.blocked_by.as_deref()?;
    Some(&blockers[..blockers.len().min(BLOCKERS_MAX)])
}

/// What the server said of its blockers holds: it was said just now, and the backend has waited for a lock ever since. Else
/// they may have gone on to other work.
fn is_held(backend: &Backend) -> bool {
    let age = |asked: u64| backend.ts_ns.saturating_sub(asked);
    backend.in_lock && backend.asked_ns.is_some_and(|asked| age(asked) <= FRESH_NS)
}

/// The moment of which the blockers are told, nanoseconds since the Unix epoch: the window's end, where it holds until then.
fn moment(case: &Case<'_>, backend: &Backend) -> i64 {
    let asked = backend.asked_ns.filter(|_| !is_held(backend)).unwrap_or(case.stuck.ts_ns);
    let age = case.stuck.ts_ns.saturating_sub(asked);
    case.stuck.wall_ns.saturating_sub(i64::try_from(age).unwrap_or(i64::MAX))
}

/// Who is to blame: whoever does not wait for a lock itself, one that holds it up directly before others. Where all of
/// them wait (for each other, or the queue has moved meanwhile), the first.
fn root(blockers: &[Blocker]) -> Option<&Blocker> {
    let to_blame = |blocker: &&Blocker| !blocker.waits();
    let direct = blockers.iter().filter(to_blame).find(|blocker| !blocker.indirect);
    direct.or_else(|| blockers.iter().find(to_blame)).or(blockers.first())
}

/// Who blocks it: `process 4710 (idle in transaction for 5 min 12 s: update …)`, or
/// `process 4709, which waits for process 4710 (…)`.
fn behind(case: &Case<'_>, backend: &Backend) -> Option<String> {
    let blockers = blockers(case, backend)?;
    let root = root(blockers)?;
    let whom = one(moment(case, backend), root, BLOCKING);
    if !root.indirect {
        let more = blockers.iter().filter(|blocker| !blocker.indirect).count().saturating_sub(1);
        return Some(if more > 0 { format!("{whom} and {more} more") } else { whom });
    }
    let (first, between) = way(blockers, root)?;
    let first = process(first);
    Some(match between {
        0 => format!("{first}, which waits for {whom}"),
        _ => format!("{first}, which waits behind {between} more for {whom}"),
    })
}

/// The shortest way from one that blocks directly to the root: its begin, and how many are between.
fn way<'a>(blockers: &'a [Blocker], root: &Blocker) -> Option<(&'a Blocker, usize)> {
    let mut reached = vec![root.own_pid];
    for between in 0..blockers.len() {
        let behind = |blocker: &&Blocker| {
            !reached.contains(&blocker.own_pid) && blocker.behind.iter().any(|pid| reached.contains(pid))
        };
        let next: Vec<&Blocker> = blockers.iter().filter(behind).collect();
        if let Some(first) = next.iter().find(|blocker| !blocker.indirect) {
            return Some((*first, between));
        }
        if next.is_empty() {
            break;
        }
        reached.extend(next.iter().map(|blocker| blocker.own_pid));
    }
    None
}

fn process(blocker: &Blocker) -> String {
    match (blocker.own_pid, blocker.pid) {
        (0, _) => "a prepared transaction, which no process has".to_owned(),
        (_, Some(pid)) => format!("process {pid}"),
        (own_pid, None) => format!("the server's process {own_pid}"),
    }
}

fn one(now: i64, blocker: &Blocker, longest: usize) -> String {
    let mut text = process(blocker);
    let Some(state) = &blocker.state else { return text };
    text.push_str(&format!(" ({}", escape(state.as_bytes(), NAME)));
    if let Some(ns) = blocker.since_ns.and_then(|since| ago(now, since)) {
        text.push_str(&format!(" for {}", duration(ns)));
    }
    if let Some(query) = blocker.query.as_ref().filter(|query| !query.is_empty()) {
        text.push_str(&format!(": {}", statement_text(query.as_bytes(), longest)));
    }
    text.push(')');
    text
}

/// A statement in one line, without the semicolon at its end.
fn statement_text(query: &[u8], longest: usize) -> String {
    let query = query.trim_ascii_end();
    let query = query.strip_suffix(b";").unwrap_or(query);
    let words: Vec<&[u8]> = query.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
    escape(&words.join(&b' '), longest)
}

/// How long ago.
fn ago(now: i64, start: i64) -> Option<u64> {
    u64::try_from(now.saturating_sub(start)).ok()
}

/// What there is to know of the backend, first in the evidence.
pub(super) fn facts(case: &Case<'_>) -> Vec<(&'static str, String)> {
    let Some(backend) = &case.stuck.backend else { return Vec::new() };
    let mut facts = Vec::new();
    let mut tell = |about, fact: Option<String>| facts.extend(fact.map(|fact| (about, fact)));
    tell("statement", statement(case, backend));
    tell("waits", waits(backend));
    let about = if is_held(backend) { "blocked by" } else { "was blocked by" };
    for blocker in blockers(case, backend).unwrap_or_default().iter().take(BLOCKERS) {
        tell(about, Some(blocked_by(moment(case, backend), blocker)));
    }
    tell("client", client(case));
    tell("spilled", spilled(backend));
    let unanswered = Some(&backend.unanswered).filter(|why| !why.is_empty());
    tell("not asked", unanswered.map(|why| escape(why.as_bytes(), REASON)));
    let refused = Some(&backend.refused).filter(|why| !why.is_empty());
    tell("not read", refused.map(|why| escape(why.as_bytes(), REASON)));
    facts
}

/// The server's statement and since when it runs.
fn statement(case: &Case<'_>, backend: &Backend) -> Option<String> {
    let mut text = statement_text(backend.query.as_ref()?, QUERY);
    let state = backend.state.as_deref().unwrap_or("active");
    match backend.query_start_ns.and_then(|start| ago(case.stuck.wall_ns, start)) {
        Some(ns) if state == "active" => text.push_str(&format!("; running for {}", duration(ns))),
        Some(ns) => text.push_str(&format!("; {}, begun {} ago", escape(state.as_bytes(), NAME), duration(ns))),
        None => {}
    }
    if let Some(ns) = backend.transaction_start_ns.and_then(|start| ago(case.stuck.wall_ns, start)) {
        text.push_str(&format!(", its transaction for {}", duration(ns)));
    }
    Some(text)
}

/// `IO/DataFileRead in 91 of 99 looks, none in 8`.
fn waits(backend: &Backend) -> Option<String> {
    let looks = backend.waits.iter().map(|(_, times)| *times).fold(0, u64::saturating_add);
    let mut waits: Vec<_> = backend.waits.iter().collect();
    waits.sort_by_key(|(_, times)| Reverse(*times));
    // No wait at all is what anybody expects who reads nothing here.
    waits.iter().any(|(wait, _)| wait.is_some()).then_some(())?;
    let tell = |(wait, times): &&(Option<(String, String)>, u64)| {
        let name = wait.as_ref().map_or("none".to_owned(), |(kind, event)| {
            format!("{}/{}", escape(kind.as_bytes(), NAME), escape(event.as_bytes(), 2 * NAME))
        });
        format!("{name} {}", percent(*times, looks).unwrap_or_default())
    };
    let shown: Vec<String> = waits.iter().take(4).map(tell).collect();
    Some(format!("{}, in {}", shown.join(", "), counted(looks, "look", "looks")))
}

fn blocked_by(now: i64, blocker: &Blocker) -> String {
    let mut text = one(now, blocker, QUERY);
    if let Some(ns) = blocker.transaction_start_ns.and_then(|start| ago(now, start)) {
        text.push_str(&format!("; its transaction for {}", duration(ns)));
    }
    if blocker.pid.is_some_and(|pid| pid != blocker.own_pid) {
        text.push_str(&format!("; the server knows it as {}", blocker.own_pid));
    }
    if blocker.hidden {
        text.push_str("; the role may not see what it does");
    }
    let behind: Vec<String> = blocker.behind.iter().take(BLOCKERS).map(ToString::to_string).collect();
    if !behind.is_empty() {
        let more = blocker.behind.len() - behind.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        text.push_str(&format!("; itself behind {}{more}", behind.join(", ")));
    }
    if let Some((kind, event)) = blocker.wait.as_ref().filter(|(kind, _)| kind != "Client") {
        let (kind, event) = (escape(kind.as_bytes(), NAME), escape(event.as_bytes(), 2 * NAME));
        text.push_str(&format!("; waits for {kind}/{event} itself"));
    }
    text
}

/// Who is at the other end of its connection, where it waits for any of its descriptors: the socket among them.
pub(super) fn client(case: &Case<'_>) -> Option<String> {
    let share = case.lead.shares.first().filter(|share| share.state == State::BlockedPoll)?;
    let WaitObject::Descriptors { of, .. } = &share.object else { return None };
    let sockets = [&b"unix"[..], b"tcp"];
    let (_, words) = of.iter().find(|(_, words)| sockets.iter().any(|begin| words.starts_with(begin)))?;
    Some(escape(words, 200))
}

/// Sorts and hashes that are on disk.
fn spilled(backend: &Backend) -> Option<String> {
    let (files, bytes) = backend.spilled.filter(|(files, _)| *files > 0)?;
    let room =
        backend.work_mem.map_or(String::new(), |room| format!(", for want of more work_mem than {}", size(room)));
    let files = counted(files, "temporary file", "temporary files");
    Some(format!("{} in {files}{room}", size(bytes)))
}

/// What to run next for a wait that the server names.
fn ask(case: &Case<'_>, backend: &Backend, kind: &str, event: &str) -> Vec<String> {
    let own = own_pid(case, backend);
    let pid = case.stuck.pid;
    let line = |line: &str| vec![line.to_owned()];
    match (kind, event) {
        ("Lock", _) => match blockers(case, backend).and_then(root) {
            Some(root) if is_held(backend) => free(backend, root),
            // Whoever held it may be at other work now: never to end that.
            Some(_) if !backend.in_lock => {
                let pg = same_server(backend).unwrap_or_else(|| "--pg user=postgres".to_owned());
                vec![format!("nothing now; when it waits for a lock again: memtrace stuck --pid {pid} {pg}")]
            }
            _ => {
                let mut lines = vec![format!(
                    "select pid, state, query from pg_stat_activity where pid = any(pg_blocking_pids({own}));        who holds it"
                )];
                lines.push(if backend.unanswered.is_empty() {
                    let pg = same_server(backend).unwrap_or_else(|| "--pg user=postgres".to_owned());
                    format!("memtrace stuck --pid {pid} {pg}        the same in one answer")
                } else {
                    "look at what --pg says: host and port of this server, a user that may log in, PGPASSWORD if it has to"
                        .to_owned()
                });
                lines
            }
        },
        ("LWLock", "WALWrite" | "WALBufMapping") => {
            vec!["iostat -x 1        how busy the disk is that pg_wal is on".to_owned(), others()]
        }
        ("LWLock", _) => vec![others()],
        ("BufferPin", _) => line(
            "select pid, state, query from pg_stat_activity where state <> 'idle';        who still reads the table",
        ),
        ("Client", "ClientRead") => line("look at the client: the next statement is its turn"),
        ("Client", _) => line("look at the client: it does not read what it asked for"),
        ("Activity", _) => line("nothing: look at another process"),
        ("IPC", "SyncRep") => {
            line("select application_name, state, replay_lag from pg_stat_replication;        who does not confirm")
        }
        ("IPC", _) => vec![format!(
            "select pid, wait_event_type, wait_event from pg_stat_activity where leader_pid = {own};        then memtrace stuck --pid of one"
        )],
        ("Timeout", "PgSleep") => line("nothing, if its statement is as it should be"),
        _ => Vec::new(),
    }
}

/// What to do about whoever is to blame for a wait for a lock.
fn free(backend: &Backend, root: &Blocker) -> Vec<String> {
    if root.own_pid == 0 {
        return vec![
            "select gid, prepared, owner from pg_prepared_xacts;        then commit or roll back the one that is left"
                .to_owned(),
        ];
    }
    // Never to end one that only waits as well.
    if root.waits() {
        let why = "that one waits for a lock as well: whose";
        return vec![match root.pid {
            Some(pid) => match same_server(backend) {
                Some(pg) => format!("memtrace stuck --pid {pid} {pg}        {why}"),
                None => format!("memtrace stuck --pid {pid}        {why}; with --pg, typed again"),
            },
            None => format!("select pg_blocking_pids({});        {why}", root.own_pid),
        }];
    }
    let mut lines = Vec::new();
    if root.hidden {
        lines.push(
            "grant pg_monitor to the role of --pg        it may not see what other sessions do; then ask again"
                .to_owned(),
        );
    }
    lines.extend(root.pid.map(|pid| format!("memtrace stuck --pid {pid}        why that one does not go on")));
    if !root.hidden {
        let lost = match root.transaction_start_ns {
            Some(_) => "ends it: what its transaction did is undone",
            None => "ends its session, and so what that holds; it is in no transaction",
        };
        lines.push(format!("select pg_terminate_backend({});        {lost}", root.own_pid));
    }
    lines
}

/// `--pg` as it was given, for a shell; `None` for what holds a password.
fn same_server(backend: &Backend) -> Option<String> {
    Some(format!("--pg {}", shell_word(backend.asked.as_ref()?.as_bytes(), DSN)?))
}

/// Nothing tells who holds an internal lock; whoever does not wait for one may.
fn others() -> String {
    "select pid, wait_event_type, wait_event, query from pg_stat_activity where state = 'active';        who does not wait for that one: it may hold it"
        .to_owned()
}

/// What to run next for a state that a backend is in, before what anybody would run.
pub(super) fn before(case: &Case<'_>, state: State) -> Vec<String> {
    let Some(backend) = case.stuck.backend.as_ref().filter(|backend| backend.server == "postgresql") else {
        return Vec::new();
    };
    if backend.state.as_deref() != Some("active") {
        return Vec::new();
    }
    match state {
        State::CpuUser | State::CpuKernel | State::Cpu => match spilled(backend) {
            Some(_) => vec![
                "explain (analyze, buffers) of the statement        which sort or hash is on disk; more work_mem keeps it in memory".to_owned(),
            ],
            None => vec!["explain (analyze, buffers) of the statement        whether its plan is what it should be".to_owned()],
        },
        State::BlockedFileIo => {
            let path = case.share(state).and_then(|share| match &share.object {
                WaitObject::File { path, .. } | WaitObject::FilePage { path, .. } => Some(path.as_slice()),
                _ => None,
            });
            let relation = path.and_then(relation).map(|file| {
                format!("select oid::regclass from pg_class where pg_relation_filenode(oid) = {file};        which table or index it reads")
            });
            relation.into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// The number of a relation's file: `16384` of `…/base/5/16384.1`.
fn relation(path: &[u8]) -> Option<u32> {
    let mut parts = path.rsplit(|byte| *byte == b'/');
    let (name, database) = (parts.next()?, parts.next()?);
    if !database.iter().all(u8::is_ascii_digit) && database != b"global" {
        return None;
    }
    let digits = name.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(name.len());
    matches!(name.get(digits), None | Some(b'.' | b'_')).then_some(())?;
    std::str::from_utf8(&name[..digits]).ok()?.parse().ok()
}

/// The pid that the server's own functions take.
fn own_pid(case: &Case<'_>, backend: &Backend) -> u32 {
    if backend.own_pid == 0 { case.stuck.pid } else { backend.own_pid }
}

#[cfg(test)]
mod tests {
    use super::relation;

    #[test]
    fn files_of_relations() {
        for (path, expected) in [
            ("/srv/data/base/5/16384", Some(16384)),
            ("/srv/data/base/5/16384.12", Some(16384)),
            ("/srv/data/base/5/16384_vm", Some(16384)),
            ("/srv/data/global/1260", Some(1260)),
            ("/srv/data/pg_tblspc/1/PG_15_202209061/5/99", Some(99)),
            ("/srv/data/base/pgsql_tmp/pgsql_tmp4711.0", None),
            ("/srv/data/base/5/t3_16384", None),
            ("/srv/data/base/5/16384; drop table t", None),
            ("/srv/data/base/5/99999999999", None),
            ("16384", None),
        ] {
            assert_eq!(relation(path.as_bytes()), expected, "{path}");
        }
    }
}
