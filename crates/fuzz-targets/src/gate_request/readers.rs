//! How other programs read a path: each of them in its own way, written down here without a look at the gate's.

use percent_encoding::percent_decode;

/// Reads a request's target, without its query, into segments.
type Reader = fn(&[u8]) -> Vec<Vec<u8>>;

const READERS: [(&str, Reader); 8] = [
    ("CGI, WSGI and PSGI", |path| split(&decoded(path))),
    ("decoding each segment by itself", |path| split(path).iter().map(|segment| decoded(segment)).collect()),
    ("nginx, and Apache with MergeSlashes", |path| resolved(split(&decoded(path)))),
    ("a servlet container", |path| {
        let cut = |segment: &Vec<u8>| decoded(segment.split(|byte| *byte == b';').next().unwrap_or_default());
        resolved(split(path).iter().map(cut).collect())
    }),
    ("Windows", |path| resolved(split(&replaced(&decoded(path), b'\\', b'/')))),
    ("decoding twice", |path| resolved(split(&decoded(&decoded(path))))),
    ("C, where a text ends with NUL", |path| {
        split(decoded(path).split(|byte| *byte == 0).next().unwrap_or_default())
    }),
    ("cutting off a fragment", |path| {
        split(&decoded(path.split(|byte| *byte == b'#').next().unwrap_or_default()))
    }),
];

/// All of them find the segments that the gate found.
pub(super) fn check(target: &[u8], found: &[String]) {
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let found: Vec<&[u8]> = found.iter().map(String::as_bytes).collect();
    for (name, read) in READERS {
        let elsewhere = read(path);
        assert!(
            elsewhere == found,
            "{name} takes {} for another path: {elsewhere:?}",
            String::from_utf8_lossy(target)
        );
    }
}

fn decoded(bytes: &[u8]) -> Vec<u8> {
    percent_decode(bytes).collect()
}

/// What stands between slashes, after the first one.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').skip(1).map(<[u8]>::to_vec).collect()
}

fn replaced(path: &[u8], from: u8, to: u8) -> Vec<u8> {
    path.iter().map(|byte| if *byte == from { to } else { *byte }).collect()
}

/// Steps up at `..`, and leaves `.` and empty segments out, but for a slash at the end.
fn resolved(segments: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let ends_with_slash = segments.last().is_some_and(|last| matches!(last.as_slice(), b"" | b"." | b".."));
    let mut kept = Vec::new();
    for segment in segments {
        match segment.as_slice() {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    if ends_with_slash {
        kept.push(Vec::new());
    }
    kept
}
