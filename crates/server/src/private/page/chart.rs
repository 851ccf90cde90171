//! The last hour, or week, as charts: a bar for each minute, or more.

use std::time::Duration;

use jiff::Timestamp;

use crate::history::Range;
use crate::sum::Sum;

/// How wide a bar is drawn, with the gap after it; the page stretches it.
const STEP: usize = 10;
const HEIGHT: u64 = 120;

/// How many slots are shown at least: what was before the start is left out, so that the chart is not empty.
const LEAST: usize = 10;

/// What the templates draw.
pub(super) struct Chart {
    pub(super) width: usize,
    pub(super) height: u64,
    pub(super) counts: Vec<Bar>,
    pub(super) counts_scale: Vec<String>,
    pub(super) times: Vec<Bar>,
    pub(super) times_scale: Vec<String>,
    pub(super) marks: Vec<Mark>,
    /// The slots in which something happened, newest first, for who cannot see bars.
    pub(super) rows: Vec<Row>,
    pub(super) all: Row,
    /// Since when.
    pub(super) since: String,
}

/// A part of a bar.
pub(super) struct Bar {
    pub(super) class: &'static str,
    pub(super) x: usize,
    pub(super) y: u64,
    pub(super) height: u64,
}

/// A mark on the axis of time.
pub(super) struct Mark {
    pub(super) x: usize,
    /// The same in hundredths of the width.
    pub(super) percent: usize,
    pub(super) text: String,
}

/// A slot.
pub(super) struct Row {
    pub(super) begins: String,
    pub(super) sum: Sum,
}

impl Row {
    /// Within what time so many of 100 handshakes were answered.
    pub(super) fn within(&self, percent: u64) -> String {
        self.sum.latencies.percentile(percent).map_or("-".to_owned(), in_words)
    }
}

/// Draws it; the last slot is the one that goes on.
pub(super) fn chart(range: &'static Range, slots: &[(Timestamp, Sum)], started: Timestamp) -> Chart {
    let before = slots.iter().take_while(|(begins, _)| *begins < started).count().saturating_sub(1);
    let slots = slots.get(before.min(slots.len().saturating_sub(LEAST))..).unwrap_or(slots);
    let step = range.step(slots.len());
    let label = |begins: Timestamp| begins.strftime(if step < 1440 { "%H:%M" } else { "%b %d" }).to_string();

    let top = round_up(slots.iter().map(|(_, sum)| sum.handshakes()).max().unwrap_or_default());
    let micros = |sum: &Sum, percent| {
        let took = sum.latencies.percentile(percent);
        took.map_or(0, |took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX))
    };
    let slowest = round_up(slots.iter().map(|(_, sum)| micros(sum, 99)).max().unwrap_or_default());
    let mut chart = Chart {
        width: STEP * slots.len(),
        height: HEIGHT,
        counts: Vec::new(),
        counts_scale: scale(top, |count| count.to_string()),
        times: Vec::new(),
        times_scale: scale(slowest, |micros| in_words(Duration::from_micros(micros))),
        marks: Vec::new(),
        rows: Vec::new(),
        all: Row { begins: String::new(), sum: Sum::default() },
        since: slots
            .first()
            .map_or(String::new(), |(begins, _)| begins.strftime("%Y-%m-%d %H:%M").to_string()),
    };
    for (nth, (begins, sum)) in slots.iter().enumerate() {
        chart.all.sum += sum;
        let mut below = 0;
        for (class, count) in [
            ("accepted", sum.good()),
            ("refused", sum.refused()),
            ("unanswered", sum.unanswered()),
            // On top, where nothing hides it.
            ("alarming", sum.alarming()),
        ] {
            if count == 0 {
                continue;
            }
            // However many others there are, one replay is to be seen.
            let height = scaled(count, top).max(2);
            chart.counts.push(bar(class, nth, below, height));
            below += height;
        }
        for (class, percent) in [("p99", 99), ("p50", 50)] {
            let took = micros(sum, percent);
            if took > 0 {
                chart.times.push(bar(class, nth, 0, scaled(took, slowest).max(2)));
            }
        }
        if begins.as_second().div_euclid(60).rem_euclid(step) == 0 {
            chart.marks.push(Mark {
                x: STEP * nth,
                percent: 10_000 * nth / slots.len().max(1),
                text: label(*begins),
            });
        }
        if sum.handshakes() > 0 {
            let begins = begins.strftime("%Y-%m-%d %H:%M").to_string();
            chart.rows.push(Row { begins, sum: *sum });
        }
    }
    chart.rows.reverse();
    chart
}

fn bar(class: &'static str, nth: usize, below: u64, height: u64) -> Bar {
    Bar { class, x: STEP * nth + 1, y: HEIGHT.saturating_sub(below + height), height }
}

/// The marks of an axis, the highest first.
fn scale(top: u64, text: impl Fn(u64) -> String) -> Vec<String> {
    let middle = top.is_multiple_of(2).then_some(top / 2);
    [Some(top), middle, Some(0)].into_iter().flatten().map(text).collect()
}

/// The height of so many, where `top` is all there is.
fn scaled(count: u64, top: u64) -> u64 {
    let height = u128::from(count) * u128::from(HEIGHT) / u128::from(top.max(1));
    u64::try_from(height).unwrap_or(HEIGHT)
}

/// The next round number, at most a half more.
fn round_up(count: u64) -> u64 {
    let mut unit = 1_u64;
    while count.div_ceil(unit) > 80 {
        unit = unit.saturating_mul(10);
    }
    let leading = count.div_ceil(unit);
    let round = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 30, 40, 50, 60, 80];
    round.into_iter().find(|round| *round >= leading).unwrap_or(80).saturating_mul(unit)
}

/// A time, in two or three digits.
pub(super) fn in_words(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0 => "0".to_owned(),
        1..1_000 => format!("{micros} µs"),
        1_000..10_000 => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
        10_000..1_000_000 => format!("{} ms", micros / 1_000),
        _ => format!("{}.{} s", micros / 1_000_000, micros % 1_000_000 / 100_000),
    }
}

#[cfg(test)]
mod tests {
    use countersign_core::from_millis;

    use crate::history::{History, RANGES};

    use super::*;

    const BEGIN: i64 = 1_767_225_600_000;

    fn hour(minutes: &[(usize, Sum)]) -> Vec<(Timestamp, Sum)> {
        let begins = |nth: usize| from_millis(BEGIN + 60_000 * i64::try_from(nth).unwrap());
        let mut slots: Vec<_> = (0..60).map(|nth| (begins(nth), Sum::default())).collect();
        for (nth, sum) in minutes {
            slots[*nth].1 = *sum;
        }
        slots
    }

    #[test]
    fn scale_ends_at_a_round_number() {
        for (count, top) in [
            (0, 1),
            (1, 1),
            (7, 8),
            (11, 12),
            (15, 16),
            (99, 100),
            (801, 1_000),
            (61_234, 80_000),
            (u64::MAX, u64::MAX),
        ] {
            assert_eq!(round_up(count), top, "{count}");
        }
    }

    #[test]
    fn one_replay_is_seen_among_a_million() {
        let slots = hour(&[
            (59, Sum::of_handshakes(&[("accepted", 1_000_000), ("replay", 1)])),
            (0, Sum::of_handshakes(&[("expired", 500_000)])),
        ]);
        let chart = chart(&RANGES[0], &slots, from_millis(0));
        let bars: Vec<_> = chart.counts.iter().map(|bar| (bar.class, bar.x, bar.y, bar.height)).collect();
        assert_eq!(bars[0], ("refused", 1, 70, 50));
        assert_eq!(bars[2].0, "alarming");
        assert!(bars[2].3 >= 2 && bars[2].2 < bars[1].2, "{bars:?}");
        assert_eq!(
            (&*chart.rows[0].begins, &*chart.rows[1].begins),
            ("2026-01-01 00:59", "2026-01-01 00:00")
        );
        assert_eq!(chart.counts_scale, ["1200000", "600000", "0"]);
    }

    #[test]
    fn axis_has_round_times_from_server_start() {
        let slots = hour(&[]);
        let marks = |started| {
            let chart = chart(&RANGES[0], &slots, from_millis(started));
            let texts = chart.marks.iter().map(|mark| mark.text.clone()).collect::<Vec<_>>();
            (chart.width, texts.join(" "))
        };
        assert_eq!(marks(0), (600, "00:00 00:10 00:20 00:30 00:40 00:50".to_owned()));
        let half = BEGIN + 30 * 60_000 + 1;
        assert_eq!(marks(half), (300, "00:30 00:35 00:40 00:45 00:50 00:55".to_owned()));
        assert_eq!(marks(BEGIN + 59 * 60_000).0, 100, "ten minutes at least");
    }

    #[test]
    fn axis_has_at_most_seven_marks() {
        for range in &RANGES {
            for hour in 0..24 {
                let now = from_millis(BEGIN + hour * 3_600_000);
                let slots = History::new(now).slots(range, now);
                for (started, _) in &slots {
                    let chart = chart(range, &slots, *started);
                    let texts: Vec<_> = chart.marks.iter().map(|mark| &mark.text).collect();
                    assert!((2..=7).contains(&texts.len()), "{range:?} since {started}: {texts:?}");
                }
            }
        }
    }

    #[test]
    fn durations_are_printed_in_few_digits() {
        for (micros, text) in
            [(0, "0"), (640, "640 µs"), (1_280, "1.2 ms"), (54_321, "54 ms"), (2_600_000, "2.6 s")]
        {
            assert_eq!(in_words(Duration::from_micros(micros)), text);
        }
    }
}
