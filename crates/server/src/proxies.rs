//! Finds the client's address behind reverse proxies.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

/// Which proxies are believed when they say whom they forward for; by default none.
///
/// The header is a matter of configuration, not of what happens to be there: a proxy that sets one header passes the
/// other on as the client sent it.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies {
    /// Their addresses.
    pub networks: Vec<IpNet>,
    /// Where they say it.
    pub header: ForwardedHeader,
}

/// The header in which a proxy says whom it forwards for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`: addresses, separated by commas.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

impl TrustedProxies {
    /// The nearest address that is not a trusted proxy: from `peer` backwards along the header, each proxy is believed
    /// about the one before it. An entry that cannot be read ends the search at the proxy that wrote it.
    pub fn client(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
        let peer = peer?;
        if self.trusts(peer) { self.forwarded_for(headers).or(Some(peer)) } else { Some(peer) }
    }

    /// The same of a request that can only have come from a trusted proxy, such as one on a Unix socket for it alone. `None` if
    /// the proxy does not say whom it forwards for.
    pub fn forwarded_for(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let mut nearest = None;
        // A proxy appends: to the last line, or as a line of its own. So the header is read from its end, and what a client
        // wrote before that cannot change how a proxy's entry is read.
        for line in headers.get_all(self.header.name()).iter().rev() {
            let mut rest = Some(line.as_bytes());
            while let Some(line) = rest {
                let entry;
                (rest, entry) = self.header.last_entry(line);
                match entry {
                    Entry::Address(address) => nearest = Some(address),
                    Entry::Empty => continue,
                    Entry::Unreadable => return nearest,
                }
                if !nearest.is_some_and(|nearest| self.trusts(nearest)) {
                    return nearest;
                }
            }
        }
        nearest
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }
}

/// What an entry of the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Address(IpAddr),
    /// Nothing stands between two commas, which means nothing (RFC 9110 section 5.6.1.2).
    Empty,
    /// It is not well formed, or names no address.
    Unreadable,
}

impl ForwardedHeader {
    fn name(self) -> HeaderName {
        match self {
            Self::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            Self::Forwarded => HeaderName::from_static("forwarded"),
        }
    }

    /// Reads the last entry of a line; also returns what stands before its comma, if there is one.
    fn last_entry(self, line: &[u8]) -> (Option<&[u8]>, Entry) {
        let comma = match self {
            Self::XForwardedFor => Ok(line.iter().rposition(|byte| *byte == b',')),
            Self::Forwarded => last_comma(line),
        };
        // Without its closing quote an entry has no beginning.
        let Ok(comma) = comma else { return (None, Entry::Unreadable) };
        let (rest, entry) = match comma.and_then(|comma| line.split_at_checked(comma)) {
            Some((rest, entry)) => (Some(rest), entry.get(1..).unwrap_or_default()),
            None => (None, line),
        };
        let entry = entry.trim_ascii();
        if entry.is_empty() {
            return (rest, Entry::Empty);
        }
        let address = match self {
            Self::XForwardedFor => read_node(entry),
            Self::Forwarded => read_element(entry).and_then(|node| read_node(&node)),
        };
        (rest, address.map_or(Entry::Unreadable, Entry::Address))
    }
}

/// An entry is not well formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Malformed;

/// Where the last comma stands that is not within quotes, read from the end.
fn last_comma(line: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut unread = line;
    while let Some((&last, before)) = unread.split_last() {
        unread = match last {
            b',' => return Ok(Some(before.len())),
            b'"' if !is_escaped(before) => before_opening_quote(before).ok_or(Malformed)?,
            b'"' => return Err(Malformed),
            _ => before,
        };
    }
    Ok(None)
}

/// What stands before the quote that opens a quoted string, of which `text` ends with the content.
fn before_opening_quote(text: &[u8]) -> Option<&[u8]> {
    let mut unread = text;
    loop {
        let quote = unread.iter().rposition(|byte| *byte == b'"')?;
        unread = unread.get(..quote)?;
        if !is_escaped(unread) {
            return Some(unread);
        }
    }
}

/// Whether what follows `text` is the second half of a quoted pair: whether an odd number of backslashes ends it.
fn is_escaped(text: &[u8]) -> bool {
    text.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// The value of `for` in a `forwarded-element` (RFC 7239 section 4); `None` if there is none, or two, or if the element is
/// not well formed. A value without quotes may also have the colons and brackets of an address, as many proxies send it.
fn read_element(element: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut node = None;
    let mut unread = element;
    loop {
        unread = unread.trim_ascii_start();
        if let Some(rest) = unread.strip_prefix(b";") {
            unread = rest;
            continue;
        }
        if unread.is_empty() {
            return node;
        }
        let (name, rest) = split_once(unread, b'=')?;
        if name.is_empty() || !name.iter().all(|byte| is_token_char(*byte)) {
            return None;
        }
        let (value, rest) = if let Some(quoted) = rest.strip_prefix(b"\"") {
            read_quoted(quoted)?
        } else {
            let end = rest.iter().position(|byte| *byte == b';').unwrap_or(rest.len());
            let (value, rest) = rest.split_at_checked(end)?;
            let value = value.trim_ascii_end();
            let fits = |byte: &u8| is_token_char(*byte) || matches!(byte, b':' | b'[' | b']');
            (value.iter().all(fits).then_some(Cow::Borrowed(value))?, rest)
        };
        if name.eq_ignore_ascii_case(b"for") && node.replace(value).is_some() {
            return None;
        }
        unread = rest.trim_ascii_start();
        if !unread.is_empty() && !unread.starts_with(b";") {
            return None;
        }
    }
}

/// Reads a quoted string behind its opening quote (RFC 9110 section 5.6.4): its content, and what follows it.
fn read_quoted(text: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let mut content = Vec::new();
    let mut bytes = text.iter();
    loop {
        match bytes.next()? {
            b'"' => return Some((content.into(), bytes.as_slice())),
            b'\\' => content.push(*bytes.next()?),
            byte => content.push(*byte),
        }
    }
}

/// What stands before the first `separator`, and what after it.
fn split_once(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == separator)?;
    let (before, after) = text.split_at_checked(at)?;
    Some((before, after.get(1..)?))
}

/// A `tchar` of RFC 9110 section 5.6.2.
fn is_token_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Reads an address with or without a port, IPv6 with or without brackets (RFC 7239 section 6).
fn read_node(node: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(node).ok()?;
    let address: IpAddr = if let Some(bracketed) = text.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']')?;
        if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
            return None;
        }
        address.parse::<Ipv6Addr>().ok()?.into()
    } else if let Ok(address) = text.parse() {
        address
    } else {
        let (address, port) = text.split_once(':')?;
        if !is_port(port) {
            return None;
        }
        address.parse::<Ipv4Addr>().ok()?.into()
    };
    Some(address.to_canonical())
}

/// A number, or a name that hides one (RFC 7239 section 6.3).
fn is_port(text: &str) -> bool {
    match text.strip_prefix('_') {
        Some(name) => {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        }
        None => text.parse::<u16>().is_ok() && text.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn client(networks: &[&str], header: ForwardedHeader, peer: &str, values: &[&[u8]]) -> String {
        let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        let name = match header {
            ForwardedHeader::XForwardedFor => "x-forwarded-for",
            ForwardedHeader::Forwarded => "forwarded",
        };
        let headers =
            values.iter().map(|value| (name.parse().unwrap(), HeaderValue::from_bytes(value).unwrap()));
        let headers = headers.collect();
        let proxies = TrustedProxies { networks, header };
        proxies.client(Some(peer.parse().unwrap()), &headers).unwrap().to_string()
    }

    #[test]
    fn no_proxy_is_trusted_by_default() {
        let headers =
            [("x-forwarded-for".parse().unwrap(), "192.0.2.9".parse().unwrap())].into_iter().collect();
        let peer: IpAddr = PROXY.parse().unwrap();
        assert_eq!(TrustedProxies::default().client(Some(peer), &headers), Some(peer));
        assert_eq!(TrustedProxies::default().client(None, &headers), None);
    }

    #[test]
    fn each_trusted_proxy_is_believed_about_the_one_before_it() {
        use ForwardedHeader::{Forwarded, XForwardedFor};
        let trusted = ["10.0.0.0/8", "2001:db8::/32"];
        for (header, peer, values, expected) in [
            (XForwardedFor, PROXY, vec![], PROXY),
            (XForwardedFor, PROXY, vec!["192.0.2.9"], "192.0.2.9"),
            (XForwardedFor, "192.0.2.1", vec!["192.0.2.9"], "192.0.2.1"),
            (XForwardedFor, PROXY, vec!["6.6.6.6, 192.0.2.9, 10.0.0.2"], "192.0.2.9"),
            (XForwardedFor, PROXY, vec!["6.6.6.6", "192.0.2.9"], "192.0.2.9"),
            (XForwardedFor, PROXY, vec!["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            (XForwardedFor, PROXY, vec!["6.6.6.6, unknown, 10.0.0.2"], "10.0.0.2"),
            (XForwardedFor, PROXY, vec!["192.0.2.9:4711"], "192.0.2.9"),
            (XForwardedFor, PROXY, vec!["[2001:dead::1]:4711"], "2001:dead::1"),
            (XForwardedFor, "2001:db8::1", vec!["2001:dead::1"], "2001:dead::1"),
            (XForwardedFor, PROXY, vec!["::ffff:192.0.2.9"], "192.0.2.9"),
            (Forwarded, PROXY, vec!["for=192.0.2.9;proto=https;by=10.0.0.1"], "192.0.2.9"),
            (Forwarded, PROXY, vec!["For=\"[2001:dead::1]:4711\""], "2001:dead::1"),
            (Forwarded, PROXY, vec!["for=6.6.6.6, for=192.0.2.9"], "192.0.2.9"),
            (Forwarded, PROXY, vec!["for=_hidden"], PROXY),
            (Forwarded, PROXY, vec!["proto=https"], PROXY),
        ] {
            let values: Vec<_> = values.iter().map(|value| value.as_bytes()).collect();
            assert_eq!(client(&trusted, header, peer, &values), expected, "{header:?} {peer} {values:?}");
        }
    }

    #[test]
    fn forwarded_node_is_parsed_in_every_form() {
        for (node, address) in [
            ("192.0.2.9", Some("192.0.2.9")),
            ("192.0.2.9:4711", Some("192.0.2.9")),
            ("192.0.2.9:_port", Some("192.0.2.9")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:443", Some("2001:db8::1")),
            ("[2001:db8::1]:_x.y-z", Some("2001:db8::1")),
            ("[::ffff:192.0.2.9]:1", Some("192.0.2.9")),
            ("", None),
            ("unknown", None),
            ("unknown:80", None),
            ("_hidden", None),
            ("unix:", None),
            ("192.0.2.9:", None),
            ("192.0.2.9:_", None),
            ("192.0.2.9:+80", None),
            ("192.0.2.9:65536", None),
            ("192.0.2.9 6.6.6.6", None),
            ("[192.0.2.9]", None),
            ("[2001:db8::1", None),
            ("[2001:db8::1]443", None),
            ("[2001:db8::1]:", None),
            ("2001:db8::1]", None),
            ("fe80::1%eth0", None),
            ("é", None),
        ] {
            let expected = address.map(|address| address.parse().unwrap());
            assert_eq!(read_node(node.as_bytes()), expected, "{node}");
        }
    }

    #[test]
    fn quoted_separators_are_part_of_the_value() {
        let long = format!("for={}", ",".repeat(60_000));
        for (lines, expected) in [
            // A proxy that passes on the Host of its client.
            (vec![r#"for=192.0.2.9;host="x,for=6.6.6.6""#], "192.0.2.9"),
            (vec![r#"for=192.0.2.9;host="x;for=6.6.6.6""#], "192.0.2.9"),
            (vec![r#"host="x, for=6.6.6.6;x=";for="192.0.2.9:80""#], "192.0.2.9"),
            (vec![r#"for=192.0.2.9;host="x\",for=6.6.6.6,x=\"""#], "192.0.2.9"),
            (vec![r#"for=192.0.2.9;host="x\\""#], "192.0.2.9"),
            (vec![r#"for="\[2001:dead::1\]:80""#], "2001:dead::1"),
            // A client that leaves a quote open, or sends something else that cannot be read.
            (vec![r#"for="6.6.6.6, for=192.0.2.9"#], "192.0.2.9"),
            (vec![r#"for="6.6.6.6, for="192.0.2.9:80";by="10.0.0.1""#], "192.0.2.9"),
            (vec![r#"host="x\, for=192.0.2.9"#], "192.0.2.9"),
            (vec![r#"for="6.6.6.6"#, "for=192.0.2.9"], "192.0.2.9"),
            (vec!["=;=\\, for=192.0.2.9"], "192.0.2.9"),
            // Empty elements and pairs.
            (vec![", ,for=192.0.2.9,, ;, "], "10.0.0.1"),
            (vec![", ,for=192.0.2.9,, , "], "192.0.2.9"),
            (vec!["for=192.0.2.9", ""], "192.0.2.9"),
            (vec![";for = 192.0.2.9"], "10.0.0.1"),
            (vec![" ; for=192.0.2.9 ;; proto=https ;"], "192.0.2.9"),
            // What cannot be read, or says two things, says nothing.
            (vec!["for=6.6.6.6;for=192.0.2.9"], "10.0.0.1"),
            (vec![r#"for=192.0.2.9;host=x""#], "10.0.0.1"),
            (vec![r#"for=192.0.2.9;host="x"y"#], "10.0.0.1"),
            (vec![r#"for=192.0.2.9;host="x\""#], "10.0.0.1"),
            (vec!["for=192.0.2.9;host"], "10.0.0.1"),
            (vec![&long], "10.0.0.1"),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
            let found = client(&["10.0.0.0/8"], ForwardedHeader::Forwarded, PROXY, &lines);
            assert_eq!(found, expected, "{lines:?}");
        }
    }

    #[test]
    fn odd_bytes_do_not_hide_the_proxy_entry() {
        for lines in [
            &["\u{e9}, 192.0.2.9".as_bytes()][..],
            &[b"\xff, 192.0.2.9"],
            &[b"6.6.6.6,, , 192.0.2.9"],
            &[b"\"6.6.6.6, 192.0.2.9 , ,"],
            &[b"6.6.6.6", b"192.0.2.9, ", b"", b" , "],
            &[b"\xff", b"192.0.2.9"],
            &[b",192.0.2.9, ,10.0.0.2"],
        ] {
            let found = client(&["10.0.0.0/8"], ForwardedHeader::XForwardedFor, PROXY, lines);
            assert_eq!(found, "192.0.2.9", "{lines:?}");
        }
    }

    /// Bytes that a header can carry; the ones that mean something are more frequent.
    fn header_bytes() -> impl Strategy<Value = Vec<u8>> {
        let special = prop::sample::select(b",;=\"\\ \tfor[]:._6".as_slice());
        let any = prop_oneof![Just(b'\t'), 0x20..=0x7e_u8, 0x80..=0xff_u8];
        prop::collection::vec(prop_oneof![3 => special, 1 => any], 0..60)
    }

    /// As RFC 9110 section 5.6.4 has it.
    fn quoted(content: &[u8]) -> Vec<u8> {
        let mut text = vec![b'"'];
        for byte in content {
            if matches!(byte, b'"' | b'\\') {
                text.push(b'\\');
            }
            text.push(*byte);
        }
        text.push(b'"');
        text
    }

    proptest! {
        #[test]
        fn client_cannot_change_the_entry_of_the_proxy(
            sent in prop::collection::vec(header_bytes(), 0..3),
            joined in any::<bool>(),
            host in header_bytes(),
            v6 in any::<bool>(),
            host_first in any::<bool>(),
        ) {
            let client_address = if v6 { "2001:dead::9" } else { "192.0.2.9" };
            let node = if v6 { b"for=\"[2001:dead::9]:80\"".to_vec() } else { b"for=192.0.2.9".to_vec() };
            let host = [b"host=".to_vec(), quoted(&host)].concat();
            let pairs = if host_first { [host, node] } else { [node, host] };
            let appended = |element: Vec<u8>| {
                let mut lines = sent.clone();
                match lines.last_mut().filter(|_| joined) {
                    Some(last) => last.extend([b", ".to_vec(), element].concat()),
                    None => lines.push(element),
                }
                lines
            };
            for (header, element) in [
                (ForwardedHeader::Forwarded, pairs.join(&b';')),
                (ForwardedHeader::XForwardedFor, client_address.as_bytes().to_vec()),
            ] {
                let lines = appended(element);
                let lines: Vec<_> = lines.iter().map(Vec::as_slice).collect();
                prop_assert_eq!(client(&["10.0.0.0/8"], header, PROXY, &lines), client_address);
            }
        }

        #[test]
        fn any_header_is_read_without_a_panic(lines in prop::collection::vec(header_bytes(), 0..4)) {
            let lines: Vec<_> = lines.iter().map(Vec::as_slice).collect();
            for header in [ForwardedHeader::Forwarded, ForwardedHeader::XForwardedFor] {
                client(&["0.0.0.0/0", "::/0"], header, PROXY, &lines);
            }
        }
    }
}
