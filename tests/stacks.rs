//! Call stacks as the output tells them, held against paths that a program knows of itself; and which share of what
//! grew has a whole one, counted here and not believed.

use crate::books::{Books, Entry, address};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;

/// A place in code.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Path of the module; empty for none.
    pub module: String,
    /// Offset in its file.
    pub offset: Option<u64>,
    /// Names, the innermost inlined function first.
    pub names: Vec<String>,
    /// Some name has a source file.
    pub has_file: bool,
}

impl Frame {
    fn read(value: &Value) -> Result<Self> {
        let symbols = value["symbols"].as_array().context("a frame without symbols")?;
        address(&value["ip"])?;
        Ok(Self {
            module: value["module"].as_str().unwrap_or_default().to_owned(),
            offset: if value["offset"].is_null() { None } else { Some(address(&value["offset"])?) },
            names: symbols
                .iter()
                .map(|symbol| Ok(without_hash(symbol["name"].as_str().context("a symbol without name")?).to_owned()))
                .collect::<Result<_>>()?,
            has_file: symbols.iter().any(|symbol| symbol["file"].is_string()),
        })
    }

    /// Its module is this program or one of its own libraries, deleted or not.
    #[must_use]
    pub fn is_of(&self, program: &str) -> bool {
        self.module.rsplit('/').next().is_some_and(|file| file.starts_with(program))
    }
}

/// The compiler's disambiguator at the end of a Rust name is no part of it.
fn without_hash(name: &str) -> &str {
    match name.rsplit_once("::h") {
        Some((path, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => path,
        _ => name,
    }
}

/// A call stack.
#[derive(Clone, Debug)]
pub struct Stack {
    /// How it ends.
    pub end: String,
    /// At the thread's first frame.
    pub complete: bool,
    /// Innermost first.
    pub frames: Vec<Frame>,
}

impl Stack {
    /// From a `stack` line: its number and what it says.
    ///
    /// # Errors
    /// It is not what the contract says.
    pub fn read(line: &Value) -> Result<(u64, Self)> {
        let frames = line["frames"].as_array().context("a stack without frames")?;
        ensure!(!frames.is_empty(), "a stack of no frame");
        let stack = Self {
            end: line["end"].as_str().context("end")?.to_owned(),
            complete: line["complete"].as_bool().context("complete")?,
            frames: frames.iter().map(Frame::read).collect::<Result<_>>()?,
        };
        ensure!(stack.complete == (stack.end == "root"), "complete does not mean that it ends at the root");
        Ok((line["id"].as_u64().context("id")?, stack))
    }

    /// It went this way. The path is told from the inside out, in words: `NAME` is a function of the program (or of its own
    /// libraries; `a|b`: either, where two symbols share an address) once, `NAME{N}` `N` times, `NAME+` at least once; `*` is one or more frames of other modules, `*a|b` with
    /// `a` or `b` in the innermost one's name; `·` is a space in a name; `~` is any frames, or none. An inlined function counts like a frame.
    #[must_use]
    pub fn went(&self, program: &str, path: &str) -> bool {
        fits(&path.split(' ').collect::<Vec<_>>(), &self.steps(program), false)
    }

    /// As far as it is known it went this way.
    #[must_use]
    pub fn began(&self, program: &str, path: &str) -> bool {
        fits(&path.split(' ').collect::<Vec<_>>(), &self.steps(program), !self.complete)
    }

    fn steps(&self, program: &str) -> Vec<Step<'_>> {
        let mut steps: Vec<Step<'_>> = Vec::new();
        for frame in &self.frames {
            if frame.is_of(program) {
                let names = frame.names.iter().map(|name| Step::Own(name));
                steps.extend(names);
                if frame.names.is_empty() {
                    steps.push(Step::Own("?"));
                }
            } else if !matches!(steps.last(), Some(Step::Outside(_))) {
                steps.push(Step::Outside(frame.names.first().map_or("", String::as_str)));
            }
        }
        steps
    }

    /// In short, for messages.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = String::new();
        for frame in &self.frames {
            let module = frame.module.rsplit('/').next().unwrap_or_default();
            match frame.names.split_last() {
                None => text.push_str(&format!("{module}+{:#x}", frame.offset.unwrap_or(0))),
                Some((name, inlined)) => {
                    for name in inlined {
                        text.push_str(&format!("({name}) "));
                    }
                    text.push_str(name);
                }
            }
            text.push_str(" ← ");
        }
        text.push_str(&self.end);
        // The innermost and the outermost of a deep recursion say enough.
        if text.chars().count() > 600 {
            let (head, tail): (String, String) =
                (text.chars().take(350).collect(), text.chars().skip(text.chars().count() - 200).collect());
            return format!("{head} … {tail}");
        }
        text
    }
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Own(&'a str),
    Outside(&'a str),
}

/// With `cut`, steps may end before the words do.
fn fits(words: &[&str], steps: &[Step<'_>], cut: bool) -> bool {
    let Some((word, rest)) = words.split_first() else {
        return steps.is_empty();
    };
    if *word == "~" {
        return (0..=steps.len()).any(|skipped| fits(rest, &steps[skipped..], cut));
    }
    let Some(first) = steps.first() else {
        return cut;
    };
    if let Some(names) = word.strip_prefix('*') {
        let Step::Outside(innermost) = first else {
            return false;
        };
        return names.split('|').any(|name| innermost.contains(name)) && fits(rest, &steps[1..], cut);
    }
    let repeated = word.rsplit_once('{').and_then(|(name, times)| Some((name, times.strip_suffix('}')?.parse().ok()?)));
    let (name, times) = match repeated {
        Some((name, times)) => (name, Some(times)),
        None => (word.trim_end_matches('+'), (!word.ends_with('+')).then_some(1)),
    };
    let is = |own: &str| name.split('|').any(|name| name.replace('·', " ") == own);
    let run = steps.iter().take_while(|step| matches!(step, Step::Own(own) if is(own))).count();
    let whole = times.is_none_or(|times: usize| run == times || cut && run == steps.len() && run < times);
    run > 0 && whole && fits(rest, &steps[run..], cut)
}

/// How much grew, and how good its stacks are.
#[derive(Clone, Debug, Default)]
pub struct Quality {
    /// Pages of every entry that made RES larger and has a stack.
    pub grown: i64,
    /// Of these, under a stack that is complete.
    pub complete: i64,
    /// The others by how the stack ends.
    pub failures: BTreeMap<String, i64>,
    /// Pages that grew without a stack, by cause.
    pub without: BTreeMap<String, i64>,
}

impl Quality {
    /// From the entries.
    #[must_use]
    pub fn of(books: &Books) -> Self {
        let mut quality = Self::default();
        for (entry, pages) in growing(books) {
            let Some(stack) = books.stack(entry) else {
                *quality.without.entry(entry.cause.clone()).or_default() += pages;
                continue;
            };
            quality.grown += pages;
            if stack.complete {
                quality.complete += pages;
            } else {
                *quality.failures.entry(stack.end.clone()).or_default() += pages;
            }
        }
        quality
    }

    /// Percent of what grew that has a complete stack.
    #[must_use]
    pub fn percent(&self) -> f64 {
        percent(self.complete, self.grown)
    }
}

/// `part` of `whole` in percent; all of nothing is all.
#[must_use]
pub fn percent(part: i64, whole: i64) -> f64 {
    if whole == 0 { 100.0 } else { part as f64 * 100.0 / whole as f64 }
}

/// Entries that made RES larger, each with by how many pages.
pub fn growing(books: &Books) -> impl Iterator<Item = (&Entry, i64)> {
    books.entries.iter().filter_map(|entry| {
        let pages = entry.delta.anon + entry.delta.file + entry.delta.shmem;
        (pages > 0).then_some((entry, pages))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(frames: &[(&str, &str)]) -> Stack {
        let frames = frames.iter().map(|(module, name)| Frame {
            module: format!("/tmp/{module}"),
            offset: Some(0),
            names: vec![(*name).to_owned()],
            has_file: false,
        });
        Stack { end: "root".to_owned(), complete: true, frames: frames.collect() }
    }

    #[test]
    fn paths_fit_their_stacks_only() {
        let deep = stack(&[
            ("libc.so.6", "__memset_avx2"),
            ("paths", "dig"),
            ("paths", "dig"),
            ("paths", "main"),
            ("libc.so.6", "__libc_start_call_main"),
            ("libc.so.6", "__libc_start_main"),
            ("paths", "_start"),
        ]);
        for path in
            ["* dig{2} main * _start", "*memcpy|memset dig+ main * _start", "~ main ~", "~ dig dig main * _start"]
        {
            let expected = path != "~ dig dig main * _start";
            assert_eq!(deep.went("paths", path), expected, "{path}");
        }
        for path in ["* dig{3} main * _start", "*memcpy dig+ main * _start", "dig+ main * _start", "* dig+ main *"] {
            assert!(!deep.went("paths", path), "{path}");
        }
        let rust = stack(&[("paths", "<A as B>::c"), ("paths", "d::{{closure}}")]);
        assert!(rust.went("paths", "<A·as·B>::c d::{{closure}}"));
        let cut = Stack { end: "deep".to_owned(), complete: false, frames: deep.frames[..3].to_vec() };
        assert!(cut.began("paths", "* dig{40} main") && cut.began("paths", "*memset dig+ main"));
        assert!(
            !cut.began("paths", "* main") && !cut.went("paths", "* dig{40} main") && !deep.began("paths", "* dig{2}")
        );
    }

    #[test]
    fn a_hash_is_no_name() {
        assert_eq!(without_hash("paths::touch::h0123456789abcdef"), "paths::touch");
        assert_eq!(without_hash("paths::hotel"), "paths::hotel");
    }
}
