//! The first lines: who is watched and how exactly, then what `top` says and what it does not.

use super::{Look, Session, process_name};
use crate::event::{Meta, Mode, Overview};
use crate::views::clock::zone_name;
use crate::views::escape::escape;
use crate::views::human::{or_unknown, size};
use crate::views::words::{command_line, kernel_series};

/// Column at which the words begin.
const INDENT: usize = 12;

impl Session {
    pub(super) fn meta(&mut self, meta: &Meta) {
        let title =
            format!("memtrace {} · {}", escape(meta.version.as_bytes(), 32), process_name(meta.pid, &meta.comm));
        let ledger = match meta.mode {
            Mode::Exact => "exact ledger",
            Mode::Summed => "exact ledger (summed)",
            Mode::Batched => "batched ledger",
            Mode::Procfs => "no ledger (procfs)",
        };
        let about = format!(" · Linux {} · {ledger}", kernel_series(&meta.kernel));
        self.sheet.line(&[(Look::Strong, &title), (Look::Plain, &about)]);

        let command = escape(&command_line(&meta.cmdline, &meta.exe), 200);
        if !command.is_empty() {
            self.sheet.wrapped((Look::Plain, "command     "), INDENT, (Look::Plain, &command));
        }
        if !meta.mode_reason.is_empty() || meta.mode != Mode::Exact {
            let cost = match meta.mode {
                Mode::Exact | Mode::Summed => "",
                Mode::Batched => {
                    "the kernel counts in batches: up to 64 pages per thread may stay unexplained for a while"
                }
                Mode::Procfs => "only differences of /proc: mappings are known, causes are not",
            };
            let reason = escape(meta.mode_reason.as_bytes(), 300);
            let glue = if reason.is_empty() || cost.is_empty() { "" } else { "; " };
            self.sheet.wrapped((Look::Plain, "ledger      "), INDENT, (Look::Alarm, &format!("{cost}{glue}{reason}")));
        }
        let (date, time) = self.clock().date_and_time(meta.ts_ns, self.options.utc_offset);
        let zone = zone_name(self.options.utc_offset);
        self.sheet.line(&[
            (Look::Plain, "began       "),
            (Look::Plain, &format!("{date} {time} {zone}; all times in {zone}")),
        ]);
        self.date = date;
    }

    pub(super) fn overview(&mut self, o: &Overview) {
        let first = self.overviews.insert(o.mm);
        let label = match (first, self.meta.spawned) {
            (true, false) if o.mm.0 == 0 => "at attach",
            (true, _) => "at start",
            (false, _) => "at the end",
        };
        let shr = o.file.saturating_add(o.shmem);
        let res = o.anon.saturating_add(shr);
        let unknown = |bytes| or_unknown(bytes, size);
        let levels = format!(
            "{}VIRT {} · RES {} = anon {} + file {} + shmem {}",
            self.whose_mm(o.mm),
            size(o.virt),
            size(res),
            size(o.anon),
            size(o.file),
            size(o.shmem),
        );
        let mut shares =
            format!("SHR {} · USS {} · PSS {} · SWAP {}", size(shr), unknown(o.uss), unknown(o.pss), size(o.swap));
        if o.hugetlb > 0 {
            shares.push_str(&format!(" · hugetlb {}", size(o.hugetlb)));
        }
        let label = format!("{label:<INDENT$}");
        let width = INDENT + levels.chars().count() + 3 + shares.chars().count();
        if width <= self.options.width {
            self.sheet.wrapped((Look::Plain, &label), INDENT, (Look::Strong, &format!("{levels} · {shares}")));
        } else {
            self.sheet.wrapped((Look::Plain, &label), INDENT, (Look::Strong, &levels));
            self.sheet.wrapped((Look::Plain, &" ".repeat(INDENT)), INDENT, (Look::Strong, &shares));
        }
        if first && o.mm.0 == 0 {
            let sentences = corrections(o);
            self.sheet.wrapped((Look::Plain, &" ".repeat(INDENT)), INDENT, (Look::Faint, &sentences));
            self.sheet.line(&[]);
        }
    }
}

/// What `top`'s columns do not say. Only what the figures support: where one could not be read, less is said.
fn corrections(o: &Overview) -> String {
    let mut text = format!(
        "VIRT is address space, not memory. SHR is file + shmem pages, shared with anyone or not, so RES − SHR = {} \
         is not what belongs to this process alone; ",
        size(o.anon)
    );
    match (o.uss, o.private_file) {
        (Some(uss), Some(private_file)) => {
            let private_anon = uss.saturating_sub(private_file);
            text.push_str(&format!(
                "that is USS = {}: {} of anonymous memory and {} of file and shmem pages that nobody else maps.",
                size(uss),
                size(private_anon),
                size(private_file)
            ));
            if o.anon > private_anon {
                text.push_str(&format!(
                    " The other {} of its anonymous memory is shared as well, as it is after a fork.",
                    size(o.anon - private_anon)
                ));
            }
        }
        (Some(uss), None) => text.push_str(&format!("that is USS = {}.", size(uss))),
        (None, _) => text.push_str("that (USS) could not be read here."),
    }
    if o.pss.is_some() {
        text.push_str(" PSS counts each shared page divided by the processes that map it.");
    }
    if o.swap > 0 {
        text.push_str(" What is in SWAP has left RES.");
    }
    if o.hugetlb > 0 {
        text.push_str(" Huge pages of hugetlbfs are not part of RES.");
    }
    text
}
