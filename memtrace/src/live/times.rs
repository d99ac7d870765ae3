//! Takes the time of an interval that is over from the probes' maps, and waits for its end.

use super::batch;
use super::own;
use super::probes::{Probes, SAMPLES_PER_SECOND};
use crate::decode::RawTimes;
use crate::procfs::monotonic_ns;
use anyhow::{Context as _, Result};
use memtrace_common::{HoldKey, HoldValue, PlaceKey, TimeKey, TimeValue};
use std::time::Duration;

/// Begins the first interval. Every thread that lives has its clock then; what was booked before is nobody's.
///
/// # Errors
/// A map cannot be read or written.
pub fn begin(probes: &mut Probes) -> Result<()> {
    probes.begin_times()?;
    wait_for_begin(probes);
    own::wait_for_running_programs();
    take_records(probes, 1).map(drop)
}

/// Returns when the interval that was begun last has begun.
pub fn wait_for_begin(probes: &Probes) {
    let begin = probes.begins_ns().into_iter().max().unwrap_or(0);
    std::thread::sleep(Duration::from_nanos(begin.saturating_sub(monotonic_ns())));
}

/// What was booked in the interval `ended`, after the next one has begun.
///
/// # Errors
/// A map cannot be read or written.
pub fn take(probes: &mut Probes, ended: u32) -> Result<RawTimes> {
    let begins = probes.begins_ns();
    let parity = (ended & 1) as usize;
    let clocks = probes.clocks()?;
    for clock in clocks.iter().filter(|clock| clock.ended != 0) {
        probes.forget_clock(clock.key.tid)?;
    }
    let holders = probes.holders()?;
    let Records { records, places, holds } = take_records(probes, parity)?;
    Ok(RawTimes {
        begin_ns: begins[parity],
        end_ns: begins[1 - parity],
        sample_ns: 1_000_000_000 / SAMPLES_PER_SECOND,
        records,
        places,
        clocks,
        holds,
        holders,
    })
}

#[derive(Default)]
struct Records {
    records: Vec<(TimeKey, TimeValue)>,
    places: Vec<(PlaceKey, u64)>,
    holds: Vec<(HoldKey, HoldValue)>,
}

fn take_records(probes: &Probes, parity: usize) -> Result<Records> {
    let mut taken = Records::default();
    batch::drain(&probes.times[parity], |key, value| taken.records.push((*key, *value)))
        .context("failed to drain the threads' time")?;
    batch::drain(&probes.places[parity], |key, count| taken.places.push((*key, *count)))
        .context("failed to drain the places in code")?;
    batch::drain(&probes.holds[parity], |key, value| taken.holds.push((*key, *value)))
        .context("failed to drain the holds of mmap_lock")?;
    Ok(taken)
}
