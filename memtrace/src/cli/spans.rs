//! Which spans to tell of: `--statements`, `--span`.

use super::usage;
use crate::event::STATEMENTS;
use clap::Args;
use std::path::PathBuf;

/// Definitions that one session may have: each is a probe in every process that is followed.
const SPANS_MAX: usize = 16;
/// Characters of a name.
const NAME_MAX: usize = 32;
const HINT: &str =
    "write NAME=/path/to/program:begin,end, or NAME=/path/to/program:function for the time in one function";

/// Spans to tell of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpanOptions {
    /// Statements of the database servers that memtrace knows.
    pub statements: bool,
    /// What the user named (`--span`).
    pub named: Vec<SpanPoint>,
}

impl SpanOptions {
    /// Whether there are any.
    #[must_use]
    pub const fn any(&self) -> bool {
        self.statements || !self.named.is_empty()
    }
}

/// A span by its functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanPoint {
    /// What it is called.
    pub name: String,
    /// The program or library that has them.
    pub path: PathBuf,
    /// Entering this function begins it.
    pub begin: String,
    /// Entering this one ends it; `None`: leaving the first.
    pub end: Option<String>,
}

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Watching")]
pub(super) struct SpanArgs {
    /// What each statement of a database server does to memory, as it ends, and the slowest and largest ones at the end.
    /// With --follow, of all backends of a postmaster.
    #[arg(long, conflicts_with = "no_bpf")]
    statements: bool,
    /// The same for any program: between two of its functions, or in one. Can be given several times.
    #[arg(long = "span", value_name = "NAME=PATH:BEGIN[,END]", value_parser = parse_span, conflicts_with = "no_bpf")]
    spans: Vec<SpanPoint>,
}

impl SpanArgs {
    pub(super) fn options(self) -> Result<SpanOptions, clap::Error> {
        let named = self.spans;
        if named.len() > SPANS_MAX {
            return Err(usage(&format!("{} times --span: {SPANS_MAX} is the most", named.len())));
        }
        for (at, point) in named.iter().enumerate() {
            if named[..at].iter().any(|other| other.name == point.name) {
                let message = format!("two spans are called {0}; call one of them {0}2", point.name);
                return Err(usage(&message));
            }
        }
        Ok(SpanOptions { statements: self.statements, named })
    }
}

/// `NAME=/path:begin`, `NAME=/path:begin,end`.
fn parse_span(text: &str) -> Result<SpanPoint, String> {
    let (name, rest) = text.split_once('=').ok_or(HINT)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(plain) {
        return Err(format!("a name is 1 to {NAME_MAX} letters, digits, or any of _-. ; {HINT}"));
    }
    if STATEMENTS.contains(&name) {
        return Err(format!("{name} is what --statements calls its own: call it {name}2"));
    }
    // Of the path, for a function may be one of a C++ class.
    let (path, functions) = rest.split_once(':').ok_or(HINT)?;
    if !path.starts_with('/') {
        return Err(format!("the program's path begins with /: {name}=$(realpath PROGRAM):begin[,end]"));
    }
    let (begin, end) = match functions.split_once(',') {
        Some((begin, end)) => (begin, Some(end)),
        None => (functions, None),
    };
    let is_name = |function: &str| !function.is_empty() && !function.contains(|c: char| c == ',' || c.is_whitespace());
    if !is_name(begin) || !end.is_none_or(is_name) {
        return Err(HINT.to_owned());
    }
    if end == Some(begin) {
        return Err(format!("it would begin where it ends; for the time in one function: {name}={path}:{begin}"));
    }
    Ok(SpanPoint { name: name.to_owned(), path: path.into(), begin: begin.to_owned(), end: end.map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_a_program() {
        let point = |name: &str, path: &str, begin: &str, end: Option<&str>| SpanPoint {
            name: name.into(),
            path: path.into(),
            begin: begin.into(),
            end: end.map(Into::into),
        };
        for (text, is) in [
            ("request=/usr/sbin/httpd:begin,end", point("request", "/usr/sbin/httpd", "begin", Some("end"))),
            ("gc=/opt/a b/x:collect", point("gc", "/opt/a b/x", "collect", None)),
            ("x.1=/a=b:ns::begin,ns::end", point("x.1", "/a=b", "ns::begin", Some("ns::end"))),
        ] {
            assert_eq!(parse_span(text), Ok(is), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_to_type() {
        for text in ["", "x", "=/a:b", "x=/a", "x=/a:", "x=/a:b,", "x=/a:,b", "x=/a:b,c,d", "x=/a:b c", "ä=/a:b"] {
            let error = parse_span(text).expect_err(text);
            assert!(error.contains("NAME=/path/to/program:begin,end"), "{text}: {error}");
        }
        assert!(parse_span("x=a:b").is_err_and(|error| error.contains("x=$(realpath PROGRAM):begin")));
        assert!(parse_span("x=/a:b,b").is_err_and(|error| error.contains("x=/a:b")));
        assert!(parse_span("mysql=/a:b").is_err_and(|error| error.contains("mysql2")));
    }
}
