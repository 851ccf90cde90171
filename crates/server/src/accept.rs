//! Content negotiation: the media type that a client prefers (RFC 9110 section 12.5.1).

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;

/// How much a client likes one of these media types, which are in lower case: 0 for not at all, or not by name, to 1.
pub(crate) fn quality(headers: &HeaderMap, types: &[&str]) -> f32 {
    let lines = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges = lines.flat_map(|line| line.split(','));
    ranges.filter_map(|range| quality_in(range, types)).fold(0.0, f32::max)
}

fn quality_in(range: &str, types: &[&str]) -> Option<f32> {
    let mut parts = range.split(';').map(str::trim);
    let media_type = parts.next()?.to_ascii_lowercase();
    if !types.contains(&media_type.as_str()) {
        return None;
    }
    let weight = parts.find_map(|parameter| parameter.strip_prefix("q=").or(parameter.strip_prefix("Q=")));
    Some(weight.map_or(1.0, |weight| weight.trim().parse().unwrap_or(0.0)))
}
