//! When a cookie ends, by its `Expires` attribute, in all the forms that servers write (RFC 6265, section 5.1.1).

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// The end that the value of a `Set-Cookie` header states; `None` if it states none that can be read. The last one counts.
pub fn cookie_end(set_cookie: &str) -> Option<Timestamp> {
    let attributes = set_cookie.split(';').skip(1).filter_map(|attribute| attribute.split_once('='));
    let ends = attributes.filter(|(name, _)| name.trim().eq_ignore_ascii_case("expires"));
    ends.filter_map(|(_, value)| date(value)).last()
}

/// The first part of the text that can be a time is the time, the next that can be a day of the month is that, and so on.
fn date(text: &str) -> Option<Timestamp> {
    let (mut time, mut day, mut month, mut year) = (None, None, None, None);
    for part in text.split(is_delimiter).filter(|part| !part.is_empty()) {
        if time.is_none()
            && let Some(found) = time_in(part)
        {
            time = Some(found);
        } else if day.is_none()
            && let Some(found) = number_in(part, 1, 2)
        {
            day = Some(found);
        } else if month.is_none()
            && let Some(found) = month_in(part)
        {
            month = Some(found);
        } else if year.is_none()
            && let Some(found) = number_in(part, 2, 4)
        {
            year = Some(found);
        }
    }
    let year = match year? {
        late @ 70..=99 => late + 1900,
        early @ 0..=69 => early + 2000,
        whole => whole,
    };
    let date = Date::new(year, month?, i8::try_from(day?).ok()?).ok().filter(|_| year >= 1601)?;
    TimeZone::UTC.to_timestamp(DateTime::from_parts(date, time?)).ok()
}

fn is_delimiter(c: char) -> bool {
    matches!(c, '\t' | ' '..='/' | ';'..='@' | '['..='`' | '{'..='~')
}

/// `hh:mm:ss`, with one digit or two each, and anything but a digit behind.
fn time_in(part: &str) -> Option<Time> {
    let mut fields = part.splitn(3, ':');
    let mut whole = || fields.next().filter(|field| field.len() <= 2)?.parse::<i8>().ok();
    let (hour, minute) = (whole()?, whole()?);
    let second = i8::try_from(number_in(fields.next()?, 1, 2)?).ok()?;
    Time::new(hour, minute, second, 0).ok()
}

fn month_in(part: &str) -> Option<i8> {
    let start = part.get(..3)?.to_ascii_lowercase();
    MONTHS.iter().zip(1..).find_map(|(month, number)| (*month == start).then_some(number))
}

/// So many digits, and anything but a digit behind.
fn number_in(part: &str, fewest: usize, most: usize) -> Option<i16> {
    let digits = part.bytes().take_while(u8::is_ascii_digit).count();
    if (fewest..=most).contains(&digits) { part.get(..digits)?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_date_formats_are_parsed() {
        for text in [
            "Thu, 1 Jan 1970 00:00:00 GMT",
            "Thu, 01 Jan 1970 00:00:00 GMT",
            "Thu, 01-Jan-1970 00:00:00 GMT",
            "Thursday, 01-Jan-70 00:00:00 GMT",
            "Thu Jan  1 00:00:00 1970",
            "thu, 1 january 1970 0:0:0 UTC",
            "1970 Jan 01 00:00:00",
            "00:00:00 1 JAN 70",
            "Thu, 1st Jan 1970 00:00:00.000 GMT",
        ] {
            assert_eq!(date(text), Some(Timestamp::UNIX_EPOCH), "{text}");
        }
        assert_eq!(date("Sun, 06 Nov 2094 08:49:37 GMT"), "2094-11-06T08:49:37Z".parse().ok());
        assert_eq!(date("Fri, 31-Dec-69 23:59:59 GMT"), "2069-12-31T23:59:59Z".parse().ok());
    }

    #[test]
    fn invalid_dates_are_ignored() {
        for text in [
            "",
            "0",
            "never",
            "Thu, 30 Feb 2026 00:00:00 GMT",
            "Thu, 32 Jan 2026 00:00:00 GMT",
            "Thu, 1 Jan 1600 00:00:00 GMT",
            "Thu, 1 Jan 2026 24:00:00 GMT",
            "Thu, 1 Jan 2026 00:00:000 GMT",
            "Thu, 1 Jan 2026",
            "1 2026 00:00:00",
            "Thu, 1 Jän 2026 00:00:00 GMT",
        ] {
            assert_eq!(date(text), None, "{text}");
        }
    }

    #[test]
    fn last_readable_ending_counts() {
        let end = |text| cookie_end(text).map(|end| end.to_string());
        assert_eq!(end("expires=Thu, 1 Jan 1970 00:00:00 GMT"), None, "that is the cookie's name");
        assert_eq!(
            end(
                "a=b; EXPIRES=Thu, 1 Jan 1970 00:00:00 GMT; Path=/; expires=Fri, 2 Jan 1970 00:00:00 GMT; Expires=0"
            ),
            Some("1970-01-02T00:00:00Z".to_owned())
        );
    }
}
