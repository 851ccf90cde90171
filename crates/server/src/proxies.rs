//! Who a request really comes from, behind reverse proxies.

use std::net::{IpAddr, SocketAddr};

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
        let mut nearest = peer?;
        if !self.trusts(nearest) {
            return Some(nearest);
        }
        for entry in self.header.entries(headers).into_iter().rev() {
            match entry {
                Some(address) => nearest = address,
                None => break,
            }
            if !self.trusts(nearest) {
                break;
            }
        }
        Some(nearest)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }
}

impl ForwardedHeader {
    /// The addresses that the header names, the farthest first; `None` for what is not an address.
    fn entries(self, headers: &HeaderMap) -> Vec<Option<IpAddr>> {
        let name = match self {
            Self::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            Self::Forwarded => HeaderName::from_static("forwarded"),
        };
        let values = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default());
        values
            .flat_map(|value| value.split(','))
            .map(|entry| match self {
                Self::XForwardedFor => read_address(entry),
                Self::Forwarded => entry.split(';').find_map(|pair| {
                    let (name, value) = pair.split_once('=')?;
                    name.trim()
                        .eq_ignore_ascii_case("for")
                        .then(|| read_address(value.trim().trim_matches('"')))?
                }),
            })
            .collect()
    }
}

/// Reads an address with or without a port, IPv6 with or without brackets.
fn read_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn client(networks: &[&str], header: ForwardedHeader, peer: &str, values: &[&str]) -> String {
        let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        let name = match header {
            ForwardedHeader::XForwardedFor => "x-forwarded-for",
            ForwardedHeader::Forwarded => "forwarded",
        };
        let headers = values.iter().map(|value| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let proxies = TrustedProxies { networks, header };
        proxies.client(Some(peer.parse().unwrap()), &headers).unwrap().to_string()
    }

    #[test]
    fn nobody_is_believed_by_default() {
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
            assert_eq!(client(&trusted, header, peer, &values), expected, "{header:?} {peer} {values:?}");
        }
    }
}
