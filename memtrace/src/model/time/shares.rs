//! Shares of a thread's time on their way together: equal ones are one, and of many the small ones are joined.

use crate::event::WaitObject;
use crate::stuck::Share;
use std::cmp::Reverse;

/// Shares of a thread that name their object.
const SHARES: usize = 24;

/// Shares on their way together.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares {
    pub(super) list: Vec<Share>,
}

impl Shares {
    pub(super) fn add(&mut self, share: Share) {
        if share.ns == 0 {
            return;
        }
        let same = |known: &&mut Share| {
            known.state == share.state
                && known.nr == share.nr
                && id(known) == id(&share)
                && is_same(&known.object, &share.object)
        };
        match self.list.iter_mut().find(same) {
            Some(known) => {
                known.object = share.object.clone();
                join(known, &share);
            }
            None => self.list.push(share),
        }
    }

    /// Largest first; what is beyond the most is joined with its state.
    pub(super) fn sorted(mut self) -> Vec<Share> {
        let order = |list: &mut Vec<Share>| list.sort_by_key(|share| (Reverse(share.ns), share.state, share.nr));
        self.list.retain(|share| share.ns > 0);
        order(&mut self.list);
        let rest = self.list.split_off(self.list.len().min(SHARES));
        for share in rest {
            match self.list.iter_mut().rev().find(|known| known.state == share.state) {
                Some(known) => {
                    if !is_same(&known.object, &share.object) {
                        known.object = WaitObject::Unknown;
                    }
                    known.nr = known.nr.filter(|_| known.nr == share.nr);
                    if id(known) != id(&share) {
                        known.mapping = None;
                    }
                    join(known, &share);
                }
                None => self.list.push(share),
            }
        }
        order(&mut self.list);
        self.list
    }
}

/// Number of the mapping.
fn id(share: &Share) -> Option<u64> {
    share.mapping.as_ref().map(|mapping| mapping.id)
}

fn join(known: &mut Share, more: &Share) {
    known.ns = known.ns.saturating_add(more.ns);
    known.bound_ns = known.bound_ns.saturating_add(more.bound_ns);
    known.count = known.count.saturating_add(more.count);
    known.max_ns = known.max_ns.max(more.max_ns);
    known.since_attach |= more.since_attach;
    known.open |= more.open;
}

/// The same object, wherever in it.
fn is_same(one: &WaitObject, other: &WaitObject) -> bool {
    use WaitObject::{File, FilePage};
    match (one, other) {
        (File { fd: a, path: x, .. }, File { fd: b, path: y, .. }) => a == b && x == y,
        (FilePage { path: x, .. }, FilePage { path: y, .. }) => x == y,
        _ => one == other,
    }
}
