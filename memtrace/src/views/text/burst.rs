//! A burst as a story: when and how much, what that means, which code, what it cost, what it pushed out.

use super::{Look, Session};
use crate::statement::{Burst, Part};
use crate::views::escape::escape;
use crate::views::fold::short;
use crate::views::human::{count, counted, duration, level, percent, signed_size, size};
use crate::views::verdict::{Weights, rate, time_in_faults, verdict};
use crate::views::words::mapping_phrase;

/// Column at which the words after a time begin.
const INDENT: usize = 14;
/// Code paths, mappings, threads that are shown.
const SHOWN: usize = 3;
/// Names in a line of code.
const NAMES: usize = 6;

impl Session {
    pub(super) fn burst(&mut self, burst: &Burst) {
        let scale = self.scale;
        let weights = Weights::of(burst);
        let stamp = self.stamp(burst.start_ns);
        let whose = self.whose(burst.pid, &burst.comm);
        let res = scale.bytes(burst.delta.res());
        let length = duration(burst.ts_ns.saturating_sub(burst.start_ns));
        let amount = format!("RES {}", signed_size(res));
        // What is gone by then has no RES any more.
        let now = if burst.res > 0 { format!(" → {}", level(scale.bytes(burst.res))) } else { String::new() };
        let rest = format!("{now} in {length}");
        let pace = format!(", {} (before: {}/s)", rate(burst), count(burst.level));
        self.sheet.line(&[
            (Look::Faint, &stamp),
            (Look::Strong, &whose),
            (Look::Strong, &format!("burst {}: ", burst.number)),
            (Look::of(res), &amount),
            (Look::Strong, &rest),
            (Look::Plain, &pace),
        ]);
        self.told_line("", Look::Plain, &format!("{}.", sentence(&verdict(burst))));

        let shown = |share: u64| share.saturating_mul(100) >= weights.whole;
        for (code, weight) in code(burst, weights).into_iter().filter(|(_, weight)| shown(*weight)).take(SHOWN) {
            let code = if code.is_empty() { "code that is not known" } else { &code };
            self.told_line(&share(weight, weights), Look::Plain, code);
        }
        if burst.mappings.len() > 1 {
            for part in burst.mappings.iter().filter(|part| shown(weights.part(part))).take(SHOWN) {
                let mapping = part.of.as_deref().map_or_else(
                    || "no mapping".to_owned(),
                    |m| format!("{} {} at {:#x}", mapping_phrase(m), size(m.end.saturating_sub(m.start)), m.start),
                );
                let amount = signed_size(scale.bytes(part.delta.res()));
                self.told_line(&share(weights.part(part), weights), Look::Faint, &format!("{mapping}, {amount}"));
            }
        }
        if burst.threads.len() > 1 {
            let threads = burst.threads.iter().take(SHOWN).map(|part| self.thread(part, weights));
            let mut threads: Vec<String> = threads.collect();
            if burst.threads.len() > SHOWN {
                threads.push("…".to_owned());
            }
            self.told_line("", Look::Faint, &format!("threads: {}", threads.join(", ")));
        }
        self.told_line("", Look::Faint, &cost(burst));
        self.told_line("", Look::Faint, &self.meanwhile(burst));
    }

    fn told_line(&mut self, label: &str, look: Look, text: &str) {
        let label = format!("{:INDENT$}{label}", "");
        let indent = label.chars().count();
        self.sheet.wrapped((Look::Plain, &label), indent, (look, text));
    }

    fn thread(&self, part: &Part<(u32, Vec<u8>)>, weights: Weights) -> String {
        let (tid, comm) = &part.of;
        format!("{tid} {} {}", escape(comm, 32), share(weights.part(part), weights).trim())
    }

    fn meanwhile(&self, burst: &Burst) -> String {
        let gone = |pages: i64| signed_size(self.scale.bytes(pages));
        let mut text = match burst.displaced.res() {
            0 => "Nothing was reclaimed meanwhile.".to_owned(),
            pages => format!("Reclaim took {} meanwhile.", gone(pages)),
        };
        if burst.given_back.res() != 0 {
            text.push_str(&format!(" {} was given back.", gone(burst.given_back.res())));
        }
        let unsure = burst.uncertain.faults.shown();
        if unsure > 0 {
            text.push_str(&format!(
                " Of all this, {} are a share of what the same code did before or after, too.",
                counted(unsure, "fault", "faults")
            ));
        }
        text
    }
}

/// Code paths, heaviest first; stacks that read alike are one.
fn code(burst: &Burst, weights: Weights) -> Vec<(String, u64)> {
    let mut lines: Vec<(String, u64)> = Vec::new();
    for part in &burst.stacks {
        let line = part.of.as_deref().map(|stack| short(stack, NAMES)).unwrap_or_default();
        let weight = weights.part(part);
        match lines.iter_mut().find(|(known, _)| *known == line) {
            Some((_, sum)) => *sum = sum.saturating_add(weight),
            None => lines.push((line, weight)),
        }
    }
    lines.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
    lines
}

/// `  92 %  `.
fn share(part: u64, weights: Weights) -> String {
    format!("{:>6}  ", percent(part, weights.whole).unwrap_or_default())
}

/// With a capital letter.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn cost(burst: &Burst) -> String {
    let mut parts = vec![counted(burst.faults.minor.max(0).unsigned_abs(), "minor fault", "minor faults")];
    if burst.faults.major > 0 {
        parts.push(counted(burst.faults.major.unsigned_abs(), "major fault", "major faults"));
    }
    for (name, per_mille) in [("p50", 500), ("p99", 990)] {
        parts.extend(burst.latency.quantile_ns(per_mille).map(|ns| format!("{name} {}", duration(ns))));
    }
    if burst.latency.samples > 0 {
        parts.push(format!("max {}", duration(burst.latency.max_ns)));
    }
    if let Some((faulting, wall)) = time_in_faults(burst) {
        let of_time = percent(faulting, wall).map_or_else(String::new, |share| format!(", {share} of the time"));
        parts.push(format!("about {} in faults{of_time}", duration(faulting)));
    }
    format!("{}.", parts.join(", "))
}
