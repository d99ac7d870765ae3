//! Which processes have an address space of their own, and which have another one's (`CLONE_VM`): the same page-table
//! entries under two numbers, of which a group counts one.

use std::cmp::Ordering;

/// Those of `tids` whose address space none before them has, by their place: as far as the kernel tells.
pub(super) fn address_spaces(tids: &[u32]) -> Vec<usize> {
    distinct(tids.len(), |a, b| compare(*tids.get(a)?, *tids.get(b)?))
}

/// The order of two tasks' address spaces, by kcmp(2): any, but the same each time. `None` on a kernel without it, where
/// it is not permitted, and after the end of one of the two.
fn compare(a: u32, b: u32) -> Option<Ordering> {
    const KCMP_VM: libc::c_long = 1;
    let unused: libc::c_ulong = 0;
    // SAFETY: no memory is involved.
    match unsafe {
        libc::syscall(libc::SYS_kcmp, libc::c_long::from(a), libc::c_long::from(b), KCMP_VM, unused, unused)
    } {
        0 => Some(Ordering::Equal),
        1 => Some(Ordering::Less),
        2 => Some(Ordering::Greater),
        _ => None,
    }
}

/// Those of so many that equal none before them, in some ten comparisons each where comparing all with all would be
/// hundreds. The comparison may fail at any time and for ever, because who is compared may end: who cannot be compared
/// equals nobody.
fn distinct(count: usize, mut compare: impl FnMut(usize, usize) -> Option<Ordering>) -> Vec<usize> {
    let (mut distinct, mut ordered) = (Vec::new(), Vec::<usize>::new());
    for index in 0..count {
        let mut place = None;
        while place.is_none() && compare(index, index).is_some() {
            let mut lost = None;
            let found = ordered.binary_search_by(|&other| {
                compare(other, index).unwrap_or_else(|| {
                    lost = Some(other);
                    Ordering::Less
                })
            });
            match lost {
                None => place = Some(found),
                Some(lost) if compare(lost, lost).is_none() => ordered.retain(|&other| other != lost),
                // It is this one that ended.
                Some(_) => break,
            }
        }
        match place {
            Some(Ok(_)) => continue,
            Some(Err(at)) => ordered.insert(at, index),
            None => {}
        }
        distinct.push(index);
    }
    distinct
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn each_is_told_once(spaces in prop::collection::vec(0..20_u8, 0..60)) {
            let mut seen = BTreeSet::new();
            let firsts: Vec<usize> = (0..spaces.len()).filter(|&index| seen.insert(spaces[index])).collect();
            prop_assert_eq!(distinct(spaces.len(), |a, b| Some(spaces[a].cmp(&spaces[b]))), firsts);
        }

        #[test]
        fn who_ends_meanwhile_hides_nobody_else(
            spaces in prop::collection::vec((0..20_u8, prop::option::of(0..400_u32)), 0..60),
        ) {
            let mut calls = 0;
            let found = distinct(spaces.len(), |a, b| {
                calls += 1;
                let lives = |index: usize| spaces[index].1.is_none_or(|end| calls < end);
                (lives(a) && lives(b)).then(|| spaces[a].0.cmp(&spaces[b].0))
            });
            // Of those that live to the end, each is there, or one before it that has its address space.
            for (index, (space, _)) in spaces.iter().enumerate() {
                prop_assert!(found.iter().any(|&other| other <= index && spaces[other].0 == *space));
            }
            let lasting = |space: u8| found.iter().filter(|&&index| spaces[index] == (space, None)).count();
            prop_assert!((0..20).all(|space| lasting(space) <= 1), "{found:?}");
        }

        #[test]
        fn any_answers_are_survived(answers in prop::collection::vec(0..4_u8, 1..100), count in 0..40_usize) {
            let mut answers = answers.into_iter().cycle();
            let found = distinct(count, |_, _| match answers.next() {
                Some(0) => Some(Ordering::Less),
                Some(1) => Some(Ordering::Equal),
                Some(2) => Some(Ordering::Greater),
                _ => None,
            });
            prop_assert!(found.is_sorted() && found.len() <= count);
        }
    }

    #[test]
    fn our_own_is_told_once() {
        let own = std::process::id();
        assert_eq!(address_spaces(&[own, own]).first(), Some(&0));
        assert_eq!(address_spaces(&[0, 0, u32::MAX]), [0, 1, 2], "nobody's");
    }
}
