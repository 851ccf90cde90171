//! The last hour as a chart: a bar for each minute.

use crate::history::{Handshakes, MINUTES};

/// The size of the drawing; the page stretches it.
const WIDTH: usize = 10 * MINUTES;
const HEIGHT: u64 = 120;

/// What the template draws.
pub(super) struct Chart {
    pub(super) width: usize,
    pub(super) height: u64,
    /// What the highest bar may stand for.
    pub(super) top: u64,
    pub(super) bars: Vec<Bar>,
    /// The minutes in which something happened, newest first, for who cannot see bars.
    pub(super) rows: Vec<Row>,
    pub(super) hour: Handshakes,
}

/// A part of a bar.
pub(super) struct Bar {
    pub(super) class: &'static str,
    pub(super) x: usize,
    pub(super) y: u64,
    pub(super) height: u64,
}

/// A minute.
pub(super) struct Row {
    /// How many minutes ago.
    pub(super) ago: usize,
    pub(super) handshakes: Handshakes,
}

/// Draws it; the last minute is the one that goes on.
pub(super) fn chart(minutes: &[Handshakes]) -> Chart {
    let top = round_up(minutes.iter().map(Handshakes::all).max().unwrap_or_default());
    let mut chart = Chart {
        width: WIDTH,
        height: HEIGHT,
        top,
        bars: Vec::new(),
        rows: Vec::new(),
        hour: Handshakes::default(),
    };
    for (nth, handshakes) in minutes.iter().enumerate() {
        chart.hour += *handshakes;
        let mut below = 0;
        for (class, count) in [
            ("accepted", handshakes.accepted),
            ("refused", handshakes.refused),
            ("unanswered", handshakes.unanswered),
            // On top, where nothing hides it.
            ("alarming", handshakes.alarming()),
        ] {
            if count == 0 {
                continue;
            }
            // However many others there are, one replay is to be seen.
            let height = scaled(count, top).max(2);
            let y = HEIGHT.saturating_sub(below + height);
            chart.bars.push(Bar { class, x: 10 * nth + 1, y, height });
            below += height;
        }
        if handshakes.all() > 0 {
            chart.rows.push(Row { ago: MINUTES - 1 - nth.min(MINUTES - 1), handshakes: *handshakes });
        }
    }
    chart.rows.reverse();
    chart
}

/// The height of so many, where `top` is all there is.
fn scaled(count: u64, top: u64) -> u64 {
    let height = u128::from(count) * u128::from(HEIGHT) / u128::from(top.max(1));
    u64::try_from(height).unwrap_or(HEIGHT)
}

/// The next number of one digit and zeros.
fn round_up(count: u64) -> u64 {
    let mut unit = 1_u64;
    while count.div_ceil(unit) >= 10 {
        unit = unit.saturating_mul(10);
    }
    count.div_ceil(unit).max(1).saturating_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_ends_at_a_round_number() {
        for (count, top) in
            [(0, 1), (1, 1), (9, 9), (10, 10), (11, 20), (99, 100), (61_234, 70_000), (u64::MAX, u64::MAX)]
        {
            assert_eq!(round_up(count), top, "{count}");
        }
    }

    #[test]
    fn one_replay_is_seen_among_a_million() {
        let mut minutes = vec![Handshakes::default(); MINUTES];
        minutes[59] = Handshakes { accepted: 1_000_000, replays: 1, ..Handshakes::default() };
        minutes[0] = Handshakes { refused: 500_000, ..Handshakes::default() };
        let chart = chart(&minutes);
        let bars: Vec<_> = chart.bars.iter().map(|bar| (bar.class, bar.x, bar.y, bar.height)).collect();
        assert_eq!(bars[0], ("refused", 1, 90, 30));
        assert_eq!(bars[2].0, "alarming");
        assert!(bars[2].3 >= 2 && bars[2].2 < bars[1].2, "{bars:?}");
        assert_eq!((chart.rows[0].ago, chart.rows[1].ago), (0, 59));
        assert_eq!(chart.top, 2_000_000);
    }
}
